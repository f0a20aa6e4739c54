import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from xkd_jax.networks import gelu as module
from xkd_jax.networks.gelu import gelu

V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


def test_gelu_equals_jax_in_value_and_gradient():
    x = jnp.linspace(-9, 9, 2001)
    exact = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    np.testing.assert_allclose(gelu(x), exact(x), atol=1e-6)
    found, expected = (jax.vmap(jax.grad(f))(x) for f in (gelu, exact))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_keeps_dtype(dtype):
    x = jnp.ones(3, dtype)
    assert gelu(x).dtype == dtype
    assert jax.grad(lambda x: gelu(x).sum())(x).dtype == dtype


def test_backward_pass_reuses_error_function():
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: gelu(x).sum()))(jnp.ones(3)))
    assert jaxpr.count("erf") == 1


def test_on_tpus_products_before_and_after_are_apart_without_a_gradient(monkeypatch):
    monkeypatch.setattr(module, "traced_device", lambda: V5E)
    x = jnp.ones(3)
    assert "optimization_barrier" in str(jax.make_jaxpr(gelu)(x))
    assert "optimization_barrier" not in str(jax.make_jaxpr(jax.grad(lambda x: gelu(x).sum()))(x))
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), rtol=1e-6)
