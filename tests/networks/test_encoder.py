"""The options of the encoder, against a plain float64 encoder with the same parameters."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy_encoder import encode, gelu, layer_norm

from data_pipelines.loader_config import AudioConfig, VideoConfig
from xkd_jax.config.architecture import ModelConfig, Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.networks.encoder import Encoder

AUDIO = AudioConfig(mels=8, columns=12, patch=(4, 4))
MODEL = ModelConfig(compute_dtype="float32", attention="xla", layers="scan")
VIDEO = VideoConfig(frames=4, size=8, patch=(2, 4, 4))


def blocks(**options):
    return Transformer(16, 2, 2, **options)


def make(config, seed=0):
    """An encoder whose biases, norms and tokens all differ from their initial values."""
    with nnx.use_eager_sharding(False):
        encoder = Encoder.create(config, MODEL, nnx.Rngs(0))
    graph, params = nnx.split(encoder)
    flat = nnx.to_flat_state(params)
    rng = np.random.default_rng(seed)
    moved = [
        (path, leaf.replace(leaf[...] + rng.normal(0, 0.2, leaf.shape).astype(np.float32)))
        for path, leaf in flat
    ]
    params = nnx.from_flat_state(moved)
    return nnx.merge(graph, params), nnx.to_pure_dict(params)


CONFIGS = {
    "xkd": EncoderConfig(blocks(), VIDEO),
    "biases, no special tokens, norm of the pooled": EncoderConfig(
        blocks(qkv_bias=True, norm_eps=1e-2, mlp_ratio=1.5),
        VIDEO,
        special_tokens=0,
        norm="pooled",
        norm_eps=1e-1,
    ),
    "no final norm": EncoderConfig(blocks(qkv_bias=True), AUDIO, norm="none"),
    "two special tokens, overlapping patches": EncoderConfig(
        blocks(), AUDIO, special_tokens=2, stride=(3, 2), pool="special"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_options_are_those_of_a_plain_encoder(name):
    config = CONFIGS[name]
    encoder, params = make(config)
    color = (3,) if config.modality == "video" else ()
    view = np.random.default_rng(1).normal(size=(2, *config.view.global_shape, *color))
    expected_tokens, expected = encode(config, params, view)
    tokens = encoder(jnp.asarray(view, jnp.float32))
    np.testing.assert_allclose(tokens, expected_tokens, atol=1e-5)
    np.testing.assert_allclose(encoder.pool(tokens), expected, atol=1e-5)


def test_attention_of_cls_has_the_query_bias():
    config = EncoderConfig(blocks(qkv_bias=True), AUDIO)
    encoder, params = make(config)
    view = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 12)), jnp.float32)
    _, attention = encoder.with_cls_attention(view)
    without = {**params["blocks"]["layers"]["qkv"]}
    bias = np.asarray(without["bias"]).copy()
    bias[:, 1] = 7  # a key's bias changes nothing
    graph, state = nnx.split(encoder)
    state["blocks"]["layers"]["qkv"]["bias"] = state["blocks"]["layers"]["qkv"]["bias"].replace(
        jnp.asarray(bias)
    )
    np.testing.assert_allclose(
        nnx.merge(graph, state).with_cls_attention(view)[1], attention, atol=1e-6
    )
    bias[:, 0] = 0
    state["blocks"]["layers"]["qkv"]["bias"] = state["blocks"]["layers"]["qkv"]["bias"].replace(
        jnp.asarray(bias)
    )
    changed = nnx.merge(graph, state).with_cls_attention(view)[1]
    assert float(jnp.abs(changed - attention).max()) > 1e-3


def test_numpy_gelu_and_layer_norm_equal_known_values():
    assert gelu(np.array(0.0)) == 0
    np.testing.assert_allclose(layer_norm(np.array([[1.0, 3.0]]), 0.0), [[-1, 1]])


def test_views_encoded_together_do_not_attend_to_each_other():
    encoder, _ = make(EncoderConfig(blocks(), VIDEO))
    rng = np.random.default_rng(1)
    whole, small = (
        jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
        for shape in ((4, 8, 8), (2, 4, 4))
    )
    keep = jnp.array([[5, 0, 2], [1, 7, 3]])
    found = encoder.encode_views([(whole, keep), (small, None), (whole, None)])
    apart = [encoder(whole, keep), encoder(small), encoder(whole)]
    for tokens, expected in zip(found, apart, strict=True):
        np.testing.assert_allclose(tokens, expected, rtol=1e-5, atol=1e-5)
