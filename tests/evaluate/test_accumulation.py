import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate.accumulation import accumulated
from xkd_jax.parallel.mesh import batch_sharding, make_mesh

ROWS = 24


def squares(trained, network, batch, key):
    """Mean of ((x w + s) - y)^2 over the rows."""
    del key

    def loss(trained):
        return jnp.square(batch["view"]["x"] @ trained["w"] + network - batch["y"]).mean()

    return jax.value_and_grad(loss)(trained)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    view = {"x": rng.normal(size=(ROWS, 3)).astype(np.float32)}
    return {"view": view, "y": rng.normal(size=ROWS).astype(np.float32)}


@pytest.mark.parametrize("parts", [1, 2, 4, 24])
def test_accumulated_parts_equal_whole_batch(batch, parts):
    w = np.array([0.3, -1, 2], np.float32)
    loss, gradients = jax.jit(accumulated(squares, parts))({"w": w}, 0.5, batch, jax.random.key(0))
    error = batch["view"]["x"].astype(float) @ w + 0.5 - batch["y"]
    np.testing.assert_allclose(loss, np.square(error).mean(), rtol=1e-5)
    expected = 2 * error @ batch["view"]["x"] / ROWS
    np.testing.assert_allclose(gradients["w"], expected, rtol=1e-4)


def test_every_part_has_its_own_key_and_rows(batch):
    def noted(trained, network, rows, key):
        del network
        return jax.random.uniform(key), {"w": trained["w"] * 0 + rows["y"].prod()}

    total, gradients = accumulated(noted, 3)(
        {"w": jnp.zeros(())}, None, {"y": jnp.arange(6.0)}, jax.random.key(1)
    )
    keys = [jax.random.fold_in(jax.random.key(1), part) for part in range(3)]
    np.testing.assert_allclose(total, np.mean([jax.random.uniform(key) for key in keys]), rtol=1e-6)
    assert float(gradients["w"]) == pytest.approx((0 * 3 + 1 * 4 + 2 * 5) / 3)


def test_rows_stay_on_their_devices(batch):
    rows = batch_sharding(make_mesh(MeshConfig(data=8), jax.devices()[:8]), ROWS)
    here = jax.tree.map(lambda leaf: jax.device_put(leaf, rows), batch)
    program = jax.jit(accumulated(squares, 3)).lower(
        {"w": jnp.zeros(3)}, 0.0, here, jax.random.key(0)
    )
    text = program.compile().as_text()
    assert "all-reduce" in text  # of the gradient
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert "collective-permute" not in text
