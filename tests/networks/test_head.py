import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xkd_jax.config.architecture import HeadConfig
from xkd_jax.networks.head import Head

CONFIG = HeadConfig(layers=4, hidden=16, bottleneck=8, outputs=32)


def make():
    with nnx.use_eager_sharding(False):
        return Head(12, CONFIG, dtype=jnp.float32, rngs=nnx.Rngs(0))


def test_output_is_layer_normalized_float32_of_any_leading_shape():
    x = jax.random.normal(jax.random.key(0), (3, 5, 12))
    out = make()(x)
    assert out.shape == (3, 5, 32)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(-1), 1, rtol=0.05)  # logits are small: epsilon matters


def test_output_layer_is_weight_normalized():
    x = jax.random.normal(jax.random.key(0), (4, 12))
    head = make()
    before = head(x)
    head.directions[...] = head.directions[...] * jnp.linspace(0.5, 3, 32)[None]
    np.testing.assert_allclose(head(x), before, rtol=1e-4, atol=1e-5)


def test_hidden_layers_share_one_norm():
    norms = [path for path, _ in nnx.to_flat_state(nnx.state(make(), nnx.Param)) if "norm" in path]
    assert len(norms) == 2  # one scale, one bias
