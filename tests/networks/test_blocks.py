import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from h100 import lowered_for_h100

from xkd_jax.config.architecture import Transformer
from xkd_jax.networks.blocks import Blocks, unrolls
from xkd_jax.networks.remat import chosen

CONFIG = Transformer(16, 3, 2)


def make(remat="none", dtype=jnp.float32, layers="scan"):
    with nnx.use_eager_sharding(False):
        return Blocks(
            CONFIG, dtype=dtype, attention="xla", remat=remat, layers=layers, rngs=nnx.Rngs(0)
        )


@pytest.fixture(scope="module")
def tokens():
    return jax.random.normal(jax.random.key(1), (2, 7, 16))


def layer(blocks, i):
    graph, params = nnx.split(blocks.layers)
    return nnx.merge(graph, jax.tree.map(lambda p: p[i], params))


def attention_map(block, x):
    q, k, _ = jnp.moveaxis(block.qkv(block.norm1(x)), 2, 0)
    scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(q.shape[-1])
    return jax.nn.softmax(scores, axis=-1)


def test_scan_equals_running_the_layers_one_by_one(tokens):
    blocks, x = make(), tokens
    for i in range(CONFIG.depth):
        x = layer(blocks, i)(x)
    np.testing.assert_allclose(blocks(tokens), x, rtol=1e-5, atol=1e-5)


def test_tokens_stay_in_rows_on_gpus():
    blocks = make(dtype=jnp.bfloat16, layers="unroll")
    text = lowered_for_h100(blocks, (2, 7, 16))
    rows = r"LayoutConstraint.*dense<\[2, 1, 0\]> : tensor<3xindex>.*tensor<2x7x16xbf16>"
    assert re.search(rows, text)


def test_segments_do_not_attend_to_each_other(tokens):
    blocks, cut = make(), [tokens[:, :2], tokens[:, 2:]]
    apart = jnp.concatenate([blocks(part) for part in cut], axis=1)
    np.testing.assert_allclose(blocks(tokens, segments=(2, 5)), apart, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(blocks(tokens) - apart).max()) > 1e-3


def test_layers_have_different_initial_parameters():
    kernel = make().layers.fc1.kernel[...]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


def test_cls_attention_is_first_row_of_last_attention_map(tokens):
    blocks, x = make(), tokens
    for i in range(CONFIG.depth - 1):
        x = layer(blocks, i)(x)
    expected = attention_map(layer(blocks, CONFIG.depth - 1), x)[:, :, 0, 1:]
    out, attention = blocks.with_cls_attention(tokens)
    np.testing.assert_allclose(attention, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out, blocks(tokens), rtol=1e-6)
    assert float(attention.sum(-1).max()) < 1  # the rest is attention to CLS itself


def test_attention_map_is_not_formed_for_cls_attention(tokens):
    n = tokens.shape[1]
    block = layer(make(), 0)
    jaxpr = jax.make_jaxpr(block.cls_attention)(tokens)
    shapes = [v.aval.shape for e in jaxpr.eqns for v in e.outvars]
    assert not [shape for shape in shapes if shape[-2:] == (n, n)]


def test_remat_and_unrolling_change_no_number(tokens):
    def loss(remat, layers="scan"):
        graph, params = nnx.split(make(remat, layers=layers))
        return jax.value_and_grad(lambda p: jnp.square(nnx.merge(graph, p)(tokens)).sum())(params)

    plain = loss("none")
    for other in (loss("products"), loss("all"), loss("products", "unroll")):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, other
        )


def test_unrolled_layers_are_computed_again_too(tokens):
    """Common subexpression elimination would save all of them."""

    def activations(remat):
        graph, params = nnx.split(make(remat, layers="unroll"))
        loss = lambda p: jnp.square(nnx.merge(graph, p)(tokens)).sum()  # noqa: E731
        text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
        return len(re.findall(r" erf\(", text))

    assert activations("none") == CONFIG.depth
    assert activations("all") == 2 * CONFIG.depth


def test_statistics_of_norms_are_not_computed_again_with_products(tokens):
    def inverse_deviations(remat):
        graph, params = nnx.split(make(remat))
        loss = lambda p: jnp.square(nnx.merge(graph, p)(tokens)).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(loss))(params)).count(" rsqrt ")

    assert inverse_deviations("none") == inverse_deviations("products") == 2  # of a layer
    assert inverse_deviations("all") == 4


def test_remat_products_saves_fewer_activations_than_none(tokens):
    """In widths: a layer's input 1, qkv 3, attended 1, the sum after it 1, the input of GELU 4."""

    def kept(remat):
        graph, params = nnx.split(make(remat))
        held = sum(p.size for p in jax.tree.leaves(params))
        run = lambda p, x: jax.vjp(lambda p, x: nnx.merge(graph, p)(x), p, x)  # noqa: E731
        _, pull = jax.eval_shape(run, params, tokens)
        size = sum(leaf.size for leaf in jax.tree.leaves(pull)) - held
        return size / tokens.size / CONFIG.depth

    assert kept("none") > 17
    assert 9 < kept("products") < 11
    assert kept("all") < 1.5


def test_bfloat16_computes_near_float32(tokens):
    low = make(dtype=jnp.bfloat16)(tokens.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), make()(tokens), atol=0.1)


@pytest.mark.parametrize(
    ("layers", "platform", "unrolled"),
    [
        ("auto", "gpu", True),
        ("auto", "tpu", True),
        ("auto", "cpu", False),
        ("scan", "gpu", False),
        ("scan", "tpu", False),
        ("unroll", "cpu", True),
    ],
)
def test_layers_are_unrolled_on_accelerators_by_default(layers, platform, unrolled):
    assert unrolls(layers, types.SimpleNamespace(platform=platform)) is unrolled


def test_gradients_of_matrices_are_stacked_in_the_compute_dtype(tokens):
    def stacked(dtype):
        graph, params = nnx.split(make(dtype=dtype))
        x = tokens.astype(dtype)
        loss = lambda p: nnx.merge(graph, p)(x).astype(jnp.float32).sum()  # noqa: E731
        jaxpr = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
        loops = [e for e in jaxpr.eqns if e.primitive.name == "scan"]
        shape = params["layers"]["fc1"]["kernel"][...].shape
        return [v.aval.dtype for e in loops for v in e.outvars if v.aval.shape == shape]

    assert stacked(jnp.bfloat16) == [jnp.bfloat16]
    assert stacked(jnp.float32) == [jnp.float32]


@pytest.mark.parametrize(
    "asked,platform,expected",
    [
        ("auto", "cpu", "products"),
        ("auto", "tpu", "none"),
        ("auto", "gpu", "none"),
        ("none", "cpu", "none"),
        ("all", "tpu", "all"),
    ],
)
def test_rematerialization_is_chosen_by_the_platform(asked, platform, expected):
    assert chosen(asked, types.SimpleNamespace(platform=platform)) == expected
