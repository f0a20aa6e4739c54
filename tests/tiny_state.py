"""A training state of a few arrays, for tests of checkpoints and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.method.train_state import TrainState, is_count
from xkd_jax.method.train_step import Metrics, keep_finite
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import train
from xkd_jax.training.compiled_run import Run

WIDTH = 64


def fill(seed: int) -> TrainState:
    """Random numbers, which can't be compressed, sharded over the devices."""
    rng = np.random.default_rng(seed)
    mesh = mesh_lib.make_mesh(MeshConfig())
    split, whole = jax.NamedSharding(mesh, jax.P("data")), jax.NamedSharding(mesh, jax.P())

    def draw() -> dict[str, jax.Array]:
        return {"w": jax.device_put(rng.random((WIDTH, WIDTH), np.float32), split)}

    centers = jax.device_put(rng.random(8, np.float32), whole)

    def count() -> jax.Array:
        return jax.device_put(np.int32(seed), whole)

    return TrainState(
        step=count(),
        student=draw(),
        teacher=draw(),
        centers={"c": centers},
        optimizer=optax.ScaleByAdamState(count=count(), mu=draw(), nu=draw()),
    )


def like(state: TrainState) -> TrainState:
    """Returns the argument of `Checkpoints.restore`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=x.sharding), state
    )


def assert_same(found: TrainState, wanted: TrainState) -> None:
    """Asserts bitwise equality."""
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def encode(parameters, batch) -> dict[str, jax.Array]:
    """A number near 1 for each row of each modality: float32 [rows, 1].

    Frames are not used, as pixels around their boxes are not initialized.
    """

    def mean(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float32).reshape(len(leaf), -1).mean(1, keepdims=True) / 100

    return {
        m: sum(mean(leaf) for leaf in jax.tree.leaves(batch[m]) if leaf.dtype != jnp.uint8)
        for m in MODALITIES
    }


def use_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of `train` have the tiny state in place of networks."""
    monkeypatch.setattr(train, "run_of", lambda config, length, mesh: run(config, length.steps))


def run(config: Config, steps: int) -> Run:
    """A run with a trivial step; its loss depends on the weights and the whole batch."""

    def step(state: TrainState, batch) -> tuple[TrainState, Metrics]:
        rows = sum(encode(None, batch).values())
        places = jnp.arange(1.0, 1 + len(rows))[:, None]
        metrics = {"loss": 2 + jnp.sin(places * rows).mean() + state.student["w"].mean()}
        following = jax.tree.map(
            lambda x: x + 1 if is_count(x) else 0.9 * x + 0.1 * metrics["loss"], state
        )
        if config.nonfinite.action == "skip":
            following = keep_finite(state, following, metrics)
        return following, metrics

    wanted = like(fill(0))
    placed = jax.tree.map(lambda x: x.sharding, wanted)
    return Run(
        architecture=config.architecture,
        length=Length(steps, 3),
        batch_size=config.batch_size,
        step=jax.jit(step, out_shardings=(placed, None), donate_argnums=0),
        initialize=lambda: fill(0),
        like=wanted,
        batch_sharding=mesh_lib.batch_sharding(mesh_lib.make_mesh(MeshConfig()), config.batch_size),
    )
