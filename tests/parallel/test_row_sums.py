import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from xkd_jax.parallel import row_sums as module
from xkd_jax.parallel.mesh import traced_device
from xkd_jax.parallel.row_sums import row_sums

V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


@pytest.mark.parametrize("device", [V5E, None])
@pytest.mark.parametrize("values", [384, 100])
def test_sums_of_a_function_of_each_value(monkeypatch, device, values):
    monkeypatch.setattr(module, "traced_device", lambda: device or traced_device())
    x = jax.random.normal(jax.random.key(0), (2, 3, values))
    found = row_sums(lambda x: jnp.square(x - 0.5), x)
    expected = np.square(np.float64(x) - 0.5).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == (2, 3, 1)


def test_on_tpus_values_of_the_same_lane_are_added_first(monkeypatch):
    monkeypatch.setattr(module, "traced_device", lambda: V5E)
    traced = jax.make_jaxpr(lambda x: row_sums(jnp.square, x))(jnp.ones((2, 384)))
    (reduced,) = (e for e in traced.jaxpr.eqns if e.primitive.name == "reduce_sum")
    assert reduced.invars[0].aval.shape == (2, 128)
