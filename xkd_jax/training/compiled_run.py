"""The jitted functions of a run: the training step and the initial state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.loader_config import LoaderConfig
from data_pipelines.progress import duration
from xkd_jax.config.architecture import Architecture
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config
from xkd_jax.method import state_shardings
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import Inputs
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.method.schedules import Schedules, schedules
from xkd_jax.method.train_state import TrainState, initial_state
from xkd_jax.method.train_step import Metrics, inputs_of, train_step
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.compiler import compiler_options
from xkd_jax.parallel.processes import main_activity, print_on_main, run_on_all
from xkd_jax.training import memory
from xkd_jax.training.checkpoints import checkpoint
from xkd_jax.training.initial_encoders import Read

Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
MakeInputs = Callable[[Any, jax.Array, LoaderConfig], Inputs]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's jitted functions, and the shardings of their arguments.

    architecture: architecture of the networks.
    length: of the run.
    batch_size: records of a global batch.
    step: jitted (state, batch) -> (state, metrics); the state is donated.
    initialize: jitted () -> the state before the first step.
    like: the state's shapes, dtypes and shardings, as `jax.ShapeDtypeStruct`.
    batch_sharding: sharding of every array of a batch.
    initial: reads the encoders that the run starts from; None: random ones.
    """

    architecture: Architecture
    length: Length
    batch_size: int
    step: jax.stages.Wrapped
    initialize: Callable[[], TrainState]
    like: TrainState
    batch_sharding: NamedSharding
    initial: Read | None = None

    @classmethod
    def create(
        cls,
        step: Step,
        transformation: optax.GradientTransformation,
        architecture: Architecture,
        length: Length,
        mesh: Mesh,
        *,
        seed: int,
        batch_size: int,
        split: bool,
    ) -> Run:
        """Creates the jitted functions; each is compiled at its first call.

        Args:
          step: the training step.
          transformation: the students' optimizer.
          architecture: architecture of the networks.
          length: of the run.
          mesh: of all devices.
          seed: of the initial parameters.
          batch_size: records of a global batch.
          split: whether weights and moments are divided along the mesh's axis `data`.

        Raises:
          DevicesError: the batch can't be split over the mesh.
        """
        placed = state_shardings.state_shardings(architecture, mesh, transformation, split=split)
        batch_sharding = mesh_lib.batch_sharding(mesh, batch_size)
        whole = NamedSharding(mesh, PartitionSpec())
        return cls(
            architecture=architecture,
            length=length,
            batch_size=batch_size,
            step=jax.jit(
                mesh_lib.on_mesh(step, mesh),
                in_shardings=(placed, batch_sharding),
                out_shardings=(placed, whole),
                donate_argnums=0,
                compiler_options=compiler_options(mesh.devices.flat[0]),
            ),
            initialize=jax.jit(
                lambda: initial_state(stream_key(seed, INITIALIZE), architecture, transformation),
                out_shardings=placed,
            ),
            like=checkpoint.like(
                state_shardings.abstract_state(architecture, transformation), placed
            ),
            batch_sharding=batch_sharding,
        )

    def starting_from(self, read: Read | None) -> Run:
        """Returns the run with other encoders before its first step.

        Args:
          read: reads them, when they are needed for the first time; None: random ones.
        """
        if read is None:
            return self
        once = functools.cache(read)
        return dataclasses.replace(
            self,
            initialize=lambda: once().into(self.initialize(), self.architecture),
            initial=once,
        )

    @property
    def rows(self) -> list[int]:
        """Indices in the global batch of the rows that this process reads."""
        return mesh_lib.local_rows(self.batch_sharding, self.batch_size)


def run_of(config: Config, length: Length, mesh: Mesh, make_inputs: MakeInputs = inputs_of) -> Run:
    """Returns the run of a config.

    Args:
      config: of the run.
      length: of the run.
      mesh: of all devices.
      make_inputs: as in `step_of`.

    Raises:
      DevicesError: the batch can't be split over the mesh.
    """
    plan = schedules(config.optimizer, config.teacher_temperatures, length)
    transformation = optimizer_of(config, plan)
    return Run.create(
        step_of(config, plan, transformation, make_inputs),
        transformation,
        config.architecture,
        length,
        mesh,
        seed=config.seed,
        batch_size=config.batch_size,
        split=config.mesh.optimizer == "split",
    )


def step_of(
    config: Config,
    plan: Schedules,
    transformation: optax.GradientTransformation,
    make_inputs: MakeInputs = inputs_of,
) -> Step:
    """Returns the training step of a config: `train_step` with its keyword arguments bound.

    Args:
      config: of the run.
      plan: the run's schedules.
      transformation: the students' optimizer.
      make_inputs: (batch, step, config of the views) -> views and masks.
    """
    return functools.partial(
        train_step,
        make_inputs=lambda batch, step: make_inputs(batch, step, config),
        architecture=config.architecture,
        loss=config.loss,
        transformation=transformation,
        schedules=plan,
        split=config.mesh.optimizer == "split",
        skip_nonfinite=config.nonfinite.action == "skip",
    )


def optimizer_of(config: Config, plan: Schedules) -> optax.GradientTransformation:
    """Returns the students' optimizer of a config.

    Args:
      config: of the run.
      plan: the run's schedules.
    """
    return optimizer(config.optimizer, plan, ActiveLosses.of(config.loss.weights))


def compile_step(
    step: jax.stages.Wrapped, *args: Any, advice: Callable[[memory.Room, float], str]
) -> jax.stages.Compiled:
    """Compiles a jitted step for arguments like these, and prints how long it took.

    Args:
      step: the jitted step.
      *args: arrays, or shapes with shardings.
      advice: see `memory.check_compiled`.

    Raises:
      DevicesError: it does not fit into memory.
    """
    print_on_main("compiling the step ...")
    with main_activity("compiling the step") as activity:
        compiled = step.lower(*args).compile()
    print_on_main(f"compiled  in {duration(activity.seconds)}")
    run_on_all(lambda: memory.check_compiled(compiled, advice))
    return compiled
