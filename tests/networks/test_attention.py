import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from h100 import H100, lowered_for_h100
from jax.sharding import AbstractDevice

from xkd_jax.config.architecture import ModelConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.networks import attention, gpu_attention, tpu_attention
from xkd_jax.parallel.mesh import make_mesh, on_mesh, traced_device

V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
MI300 = AbstractDevice(device_kind="AMD Instinct MI300X", num_cores=304, platform="gpu")
CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")


def qkv_of(n, batch=8, heads=2, size=8, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(n), (batch, n, 3, heads, size), dtype)


def plain(qkv, segments=None):
    return attention.plain(qkv, segments or qkv.shape[1:2])


def scored(function):
    """Returns its value, and the gradient of a weighted sum with different weights."""

    def score(qkv):
        out = function(qkv).astype(jnp.float32)
        return (out * jnp.sin(jnp.arange(out.size).reshape(out.shape))).sum(), out

    return jax.value_and_grad(score, has_aux=True)


def require_equal(function, expected, qkv):
    (_, found), gradient = jax.jit(scored(function))(qkv)
    (_, value), expected_gradient = jax.jit(scored(expected))(qkv)
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=2e-6)


@pytest.fixture
def like_cudnn(monkeypatch):
    """JAX's attention with cuDNN's restrictions and XLA's values; yields its arguments."""
    real, shapes = jax.nn.dot_product_attention, []

    def strict(q, k, v, *, implementation, **kwargs):
        if implementation == "cudnn":
            shapes.append(q.shape[:3])
            if q.shape[1] % 2 or q.shape[-1] % 8:
                raise NotImplementedError(f"Unsupported sequence length Q {q.shape[1]}")
        return real(q, k, v, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", strict)
    return shapes


@pytest.mark.parametrize("n", [1, 8, 9])
def test_cudnn_gets_even_lengths_and_the_added_token_changes_nothing(like_cudnn, n):
    require_equal(functools.partial(attention.cudnn, segments=(n,)), plain, qkv_of(n))
    assert [shape[1] for shape in like_cudnn] == [n + n % 2]


def on_devices(function, sizes):
    """The function jitted on a mesh, with the shardings of `shard_map`'s arguments."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(on_mesh(function, mesh), in_shardings=whole)


@pytest.mark.parametrize(
    "mesh,batch,heads,seen",
    [
        ((8, 1, 1), 8, 2, (1, 10, 2)),
        ((2, 2, 2), 8, 2, (2, 10, 1)),
        ((4, 1, 2), 3, 3, (3, 10, 3)),  # not divisible by this mesh
    ],
)
def test_on_a_mesh_each_device_has_its_own_samples_and_heads(
    like_cudnn, monkeypatch, mesh, batch, heads, seen
):
    monkeypatch.setattr(attention, "traced_device", lambda: H100)
    qkv = qkv_of(9, batch, heads, dtype=jnp.bfloat16)
    attend = on_devices(scored(lambda qkv: attention.attend(qkv, "cudnn")), mesh)
    (_, found), gradient = attend(qkv)
    (_, expected), expected_gradient = jax.jit(scored(plain))(qkv)
    np.testing.assert_allclose(*(np.float32(a) for a in (found, expected)), atol=0.02)
    np.testing.assert_allclose(*(np.float32(a) for a in (gradient, expected_gradient)), atol=0.02)
    assert set(like_cudnn) == {seen}


def tpu(qkv, segments):
    """The TPU kernel, executed by XLA."""
    return tpu_attention.tpu_attention(qkv, segments, interpret=True)


def gpu(qkv, segments):
    """The GPU kernel, executed by XLA, with several tiles for few tokens."""
    return gpu_attention.gpu_attention(
        qkv, segments, rows=128 if max(segments) > 100 else 16, interpret=True
    )


def whole(kernel):
    """The kernel with all tokens in one segment."""
    return lambda qkv: kernel(qkv, qkv.shape[1:2])


both_kernels = pytest.mark.parametrize("kernel", [tpu, gpu])


@both_kernels
@pytest.mark.parametrize("n,batch", [(1, 2), (13, 4), (130, 3)])
@pytest.mark.parametrize("heads,size", [(4, 32), (2, 64), (8, 80), (1, 128)])
def test_a_kernel_equals_the_formula(kernel, n, batch, heads, size):
    """On TPUs: one or several samples per grid step; heads that share or cross groups of lanes."""
    require_equal(whole(kernel), plain, qkv_of(n, batch, heads, size))


@both_kernels
def test_a_kernel_takes_heads_that_do_not_fill_its_lanes(kernel):
    require_equal(whole(kernel), plain, qkv_of(9, 2, 3, 24))


@pytest.mark.parametrize("heads,size", [(8, 32), (6, 64), (4, 80)])
@pytest.mark.parametrize("device", [V5E, CPU])
def test_tpu_kernel_with_groups_of_heads_together_and_one_by_one(monkeypatch, device, heads, size):
    """A CPU has no vector memory for a second group."""
    monkeypatch.setattr(tpu_attention, "traced_device", lambda: device)
    require_equal(whole(tpu), plain, qkv_of(13, 2, heads, size))


@both_kernels
def test_a_kernel_takes_large_negative_scores(kernel):
    qkv = 0.1 * qkv_of(21, 2, 2, 32) + jnp.array([12.0, -12.0, 0.0]).reshape(1, 1, 3, 1, 1)
    scores = jnp.einsum("bnhd,bmhd->bhnm", qkv[:, :, 0], qkv[:, :, 1]) / math.sqrt(32)
    assert scores.max() < -700  # exp(-score) is infinite
    (_, found), gradient = scored(whole(kernel))(qkv)
    (_, expected), expected_gradient = scored(plain)(qkv)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-2)


SEGMENTS = (5, 9, 3)


@pytest.mark.parametrize("kernel", [attention.plain, attention.cudnn, tpu, gpu])
def test_tokens_attend_within_their_segment(like_cudnn, kernel):
    """The result equals attention over all pairs of tokens with pairs across segments masked."""

    def masked(qkv):
        q, k, v = (qkv[:, :, i] for i in range(3))
        segment = np.repeat(np.arange(len(SEGMENTS)), SEGMENTS)
        same = (segment[:, None] == segment)[None, None]
        return jax.nn.dot_product_attention(q, k, v, mask=same, implementation="xla")

    found = functools.partial(kernel, segments=SEGMENTS)
    require_equal(found, masked, qkv_of(sum(SEGMENTS), 2, 4, 32))


@both_kernels
def test_a_kernel_rounds_no_more_than_bfloat16(kernel):
    qkv = qkv_of(33, dtype=jnp.bfloat16)
    (_, found), gradient = jax.jit(scored(whole(kernel)))(qkv)
    (_, exact), expected = jax.jit(scored(plain))(qkv.astype(jnp.float32))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, exact, atol=2**-7)
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, atol=2**-6)


@pytest.mark.parametrize(
    "device,module,dtype", [(V5E, tpu_attention, "float32"), (H100, gpu_attention, "bfloat16")]
)
@pytest.mark.parametrize("mesh,heads", [((8, 1, 1), 4), ((2, 2, 2), 8), ((2, 1, 2), 3)])
def test_a_kernel_on_a_mesh(monkeypatch, device, module, dtype, mesh, heads):
    monkeypatch.setattr(attention, "traced_device", lambda: device)
    name = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, name, functools.partial(getattr(module, name), interpret=True))
    qkv = qkv_of(9, 8, heads, 32, jnp.dtype(dtype))
    attend = on_devices(scored(lambda qkv: attention.attend(qkv, "auto")), mesh)
    (_, found), gradient = attend(qkv)
    (_, expected), expected_gradient = jax.jit(scored(plain))(qkv)
    error = 1e-6 if dtype == "float32" else 0.02
    np.testing.assert_allclose(*(np.float32(a) for a in (found, expected)), atol=error)
    np.testing.assert_allclose(*(np.float32(a) for a in (gradient, expected_gradient)), atol=error)


@pytest.mark.parametrize("heads,size,segments", [(12, 64, (9, 70)), (16, 80, (9,)), (2, 8, (5,))])
def test_the_gpu_kernel_is_translated_without_a_gpu(heads, size, segments):
    def loss(qkv):
        return attention.attend(qkv, "auto", segments).astype(jnp.float32).sum()

    text = lowered_for_h100(jax.grad(loss), (4, sum(segments), 3, heads, size))
    forward, backward = (line for line in text.splitlines() if "gpu.triton" in line)
    scores = 4 * heads * sum(n * n for n in segments)
    lanes = {80: 128, 8: 16}.get(size, size)
    assert f'flops = "{2 * 2 * scores * lanes}"' in forward
    assert f'flops = "{7 * 2 * scores * lanes}"' in backward


@pytest.mark.parametrize(
    "asked,device,dtype,size,expected",
    [
        ("auto", CPU, "bfloat16", 64, "xla"),
        ("auto", V5E, "bfloat16", 64, "pallas"),
        ("auto", V5E, "float32", 32, "pallas"),
        ("pallas", CPU, "bfloat16", 64, "xla (pallas needs a TPU or an NVIDIA GPU)"),
        ("cudnn", V5E, "bfloat16", 64, "xla (cudnn needs an NVIDIA GPU)"),
        ("auto", H100, "bfloat16", 64, "pallas"),
        ("cudnn", H100, "bfloat16", 80, "cudnn"),
        ("xla", H100, "bfloat16", 64, "xla"),
        ("auto", MI300, "bfloat16", 64, "xla"),
        ("auto", H100, "float32", 64, "xla (pallas needs bfloat16)"),
        (
            "cudnn", H100, "bfloat16", 12,
            "xla (cudnn needs heads of a multiple of 8, at most 128, not 12)",
        ),
        ("cudnn", CPU, "bfloat16", 64, "xla (cudnn needs an NVIDIA GPU)"),
    ],
)  # fmt: skip
def test_kernel_is_chosen_by_platform(asked, device, dtype, size, expected):
    assert str(attention.choose(asked, device, jnp.dtype(dtype), size)) == expected


def test_an_old_gpu_computes_with_xla():
    class T4:
        device_kind, platform, compute_capability = "Tesla T4", "gpu", "7.5"

    found = attention.choose("auto", T4, jnp.bfloat16, 64)
    assert str(found) == "xla (pallas needs a GPU of compute capability 8.0 or newer)"


def test_a_jax_without_triton_computes_with_cudnn(monkeypatch):
    monkeypatch.setattr(attention, "has_triton", lambda: False)
    assert str(attention.choose("auto", H100, jnp.bfloat16, 64)) == "cudnn"
    found = attention.choose("pallas", H100, jnp.bfloat16, 64)
    assert str(found) == "xla (pallas needs a JAX with Pallas for Triton, up to 0.12)"


def test_the_first_lines_name_both_stacks_where_they_differ():
    assert attention.describe(ModelConfig(), H100) == "pallas"
    assert attention.describe(ModelConfig(attention="xla"), H100) == "xla"
    found = attention.describe(ModelConfig(size="64/1/2:36/1/3"), H100)
    assert found.startswith("pallas in encoders, xla (pallas needs heads of a multiple of 8,")


def test_traced_device_is_that_of_the_mesh():
    mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=H100)
    with jax.sharding.use_abstract_mesh(mesh):
        assert traced_device() == H100
    assert traced_device().platform == "cpu"
