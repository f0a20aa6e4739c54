"""A training state of a few arrays, for tests of what keeps states and runs steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xkd_jax import sharding
from xkd_jax.config import Config, MeshConfig
from xkd_jax.run import Run
from xkd_jax.schedules import Length
from xkd_jax.state import TrainState, is_count
from xkd_jax.step import Metrics, keep_finite

WIDTH = 64


def fill(seed: int) -> TrainState:
    """Random numbers, which no compression makes smaller; split over the devices."""
    rng = np.random.default_rng(seed)
    mesh = sharding.make_mesh(MeshConfig())
    split, whole = jax.NamedSharding(mesh, jax.P("data")), jax.NamedSharding(mesh, jax.P())

    def draw() -> dict[str, jax.Array]:
        return {"w": jax.device_put(rng.random((WIDTH, WIDTH), np.float32), split)}

    centres = jax.device_put(rng.random(8, np.float32), whole)

    def count() -> jax.Array:
        return jax.device_put(np.int32(seed), whole)

    return TrainState(
        step=count(),
        student=draw(),
        teacher=draw(),
        centres={"c": centres},
        optimizer=optax.ScaleByAdamState(count=count(), mu=draw(), nu=draw()),
    )


def like(state: TrainState) -> TrainState:
    """What `Checkpoints.restore` asks for."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=x.sharding), state
    )


def assert_same(found: TrainState, wanted: TrainState) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def run(config: Config, steps: int) -> Run:
    """A run whose step compiles at once; its loss is of the sound's gain and of the weights."""

    def step(state: TrainState, batch) -> tuple[TrainState, Metrics]:
        metrics = {"loss": batch["audio"]["global"]["gain"].mean() + state.student["w"].mean()}
        following = jax.tree.map(
            lambda x: x + 1 if is_count(x) else 0.9 * x + 0.1 * metrics["loss"], state
        )
        if config.nonfinite.action == "skip":
            following = keep_finite(state, following, metrics)
        return following, metrics

    wanted = like(fill(0))
    placed = jax.tree.map(lambda x: x.sharding, wanted)
    return Run(
        config=config,
        length=Length(steps, 3),
        step=jax.jit(step, out_shardings=(placed, None), donate_argnums=0),
        initialise=lambda: fill(0),
        like=wanted,
        batch_sharding=sharding.batch_sharding(sharding.make_mesh(MeshConfig()), config.batch_size),
    )
