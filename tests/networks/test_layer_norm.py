import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.networks.layer_norm import normalize


def formula(x, scale, bias, eps=1e-5):
    """The formula, for automatic differentiation."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    scale, bias = (jnp.broadcast_to(part, x.shape) for part in (scale, bias))
    return (x - mean) / jnp.sqrt(variance + eps) * scale + bias


def inputs(shape=(2, 5, 24), dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3 + 2 * jax.random.normal(keys[0], shape, dtype)
    scale, bias = (jax.random.normal(key, shape[-1:]) for key in keys[1:3])
    return x, scale, bias, jax.random.normal(keys[3], shape, dtype)


def pulled_back(function):
    def run(x, scale, bias, cotangent):
        value, pull = jax.vjp(function, x, scale, bias)
        return value, *pull(cotangent)

    return jax.jit(run)


@pytest.mark.parametrize("shape", [(24,), (2, 5, 24)])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_layer_norm_equals_formula_in_value_and_gradients(shape, eps):
    found, expected = (
        pulled_back(lambda x, scale, bias, f=f: f(x, scale, bias, eps))(*inputs(shape))
        for f in (normalize, formula)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_is_rounded_once():
    x, scale, bias, cotangent = inputs(dtype=jnp.bfloat16)
    found = pulled_back(normalize)(x, scale, bias, cotangent)
    assert [a.dtype for a in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    wide = pulled_back(formula)(x.astype(jnp.float32), scale, bias, cotangent.astype(jnp.float32))
    for a, b in zip(found, wide, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-8, atol=2**-8)


def test_layer_norm_of_row_far_from_zero_is_accurate():
    """Mean of squares - square of mean would have no correct digit."""
    x, scale, bias, cotangent = inputs()
    near = pulled_back(normalize)(x, scale, bias, cotangent)[0]
    far = pulled_back(normalize)(x + 4096, scale, bias, cotangent)[0]
    np.testing.assert_allclose(far, near, atol=5e-3)


@pytest.mark.parametrize("offset", [0, 40, -400])
def test_bfloat16_row_far_from_zero_is_as_accurate_as_its_input(offset):
    x, scale, bias, cotangent = inputs(dtype=jnp.bfloat16)
    x = x + jnp.bfloat16(offset)
    found = pulled_back(normalize)(x, scale, bias, cotangent)
    wide = pulled_back(formula)(x.astype(jnp.float32), scale, bias, cotangent.astype(jnp.float32))
    for a, b in zip(found, wide, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=2**-7, atol=2**-7)


def test_row_of_one_value_is_its_bias():
    x, scale, bias, _ = inputs(dtype=jnp.bfloat16)
    found = normalize(jnp.full_like(x, 100), scale, bias)
    np.testing.assert_allclose(found, jnp.broadcast_to(bias, x.shape), atol=2**-6)


def test_gradient_stores_only_the_input():
    x, scale, bias, _ = inputs((4, 32, 64), jnp.bfloat16)
    _, pull = jax.eval_shape(lambda *args: jax.vjp(normalize, *args), x, scale, bias)
    sizes = [leaf.size for leaf in jax.tree.leaves(pull)]
    assert sizes.count(x.size) == 1
    assert sum(sizes) < 1.1 * x.size
