"""The jitted functions of a run: the training step and the initial state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data_pipelines.loader_config import LoaderConfig
from data_pipelines.progress import duration
from xkd_jax.config.pretraining import Config
from xkd_jax.method import state_shardings
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import Inputs
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.method.schedules import Length, schedules
from xkd_jax.method.train_state import TrainState, initial_state
from xkd_jax.method.train_step import inputs_of, train_step
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.processes import main_activity, print_on_main, run_on_all
from xkd_jax.training import memory
from xkd_jax.training.checkpoints import checkpoint
from xkd_jax.training.initial_encoders import Read


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's jitted functions, and the shardings of their arguments.

    step: jitted (state, batch) -> (state, metrics); the state is donated.
    initialize: jitted () -> the state before the first step.
    like: the state's shapes, dtypes and shardings, as `jax.ShapeDtypeStruct`.
    batch_sharding: sharding of every array of a batch.
    initial: reads the encoders that the run starts from; None: random ones.
    """

    config: Config
    length: Length
    step: jax.stages.Wrapped
    initialize: Callable[[], TrainState]
    like: TrainState
    batch_sharding: NamedSharding
    initial: Read | None = None

    @classmethod
    def create(
        cls,
        config: Config,
        length: Length,
        mesh: Mesh,
        make_inputs: Callable[[Any, jax.Array, LoaderConfig], Inputs] = inputs_of,
    ) -> Run:
        """Creates the jitted functions; each is compiled at its first call.

        Args:
          config: of the run.
          length: of the run.
          mesh: of all devices.
          make_inputs: see `train_step`.

        Raises:
          UserError: the batch can't be split over the mesh.
        """
        plan, architecture = schedules(config, length), config.architecture
        active = ActiveLosses.of(config.loss.weights)
        transformation = optimizer(config.optimizer, plan, active)
        state_sharding = state_shardings.state_shardings(
            architecture, mesh, transformation, split=config.mesh.optimizer == "split"
        )
        batch_sharding = mesh_lib.batch_sharding(mesh, config.batch_size)
        whole = NamedSharding(mesh, PartitionSpec())
        return cls(
            config=config,
            length=length,
            step=jax.jit(
                mesh_lib.on_mesh(
                    functools.partial(
                        train_step, config=config, schedules=plan, make_inputs=make_inputs
                    ),
                    mesh,
                ),
                in_shardings=(state_sharding, batch_sharding),
                out_shardings=(state_sharding, whole),
                donate_argnums=0,
            ),
            initialize=jax.jit(
                lambda: initial_state(
                    stream_key(config.seed, INITIALIZE), architecture, transformation
                ),
                out_shardings=state_sharding,
            ),
            like=checkpoint.like(
                state_shardings.abstract_state(architecture, transformation), state_sharding
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
        architecture = self.config.architecture
        return dataclasses.replace(
            self,
            initialize=lambda: once().into(self.initialize(), architecture),
            initial=once,
        )

    def check_memory(self) -> None:
        """Refuses a step that clearly does not fit into memory, before it is compiled.

        Raises:
          UserError: it does not fit.
        """
        with main_activity("estimating the memory of a step"):
            run_on_all(lambda: memory.check_estimate(self.config, self.like, self._devices))

    def compile(self, state: TrainState, batch: Any) -> jax.stages.Compiled:
        """The step, compiled for arrays of the shapes and shardings of these.

        Raises:
          UserError: it does not fit into memory.
        """

        def advice(there: memory.Room, needed: float) -> str:
            return memory.flags_that_fit(self.config, self.like, there, self._devices, needed)

        return compile_step(self.step, state, batch, advice=advice)

    @property
    def _devices(self) -> int:
        return self.batch_sharding.mesh.size

    @property
    def rows(self) -> list[int]:
        """Indices in the global batch of the rows that this process reads."""
        return mesh_lib.local_rows(self.batch_sharding, self.config.batch_size)


def compile_step(
    step: jax.stages.Wrapped, *args: Any, advice: Callable[[memory.Room, float], str]
) -> jax.stages.Compiled:
    """Compiles a jitted step for arguments like these, and prints how long it took.

    Args:
      step: the jitted step.
      *args: arrays, or shapes with shardings.
      advice: see `memory.check_compiled`.

    Raises:
      UserError: it does not fit into memory.
    """
    print_on_main("compiling the step ...")
    with main_activity("compiling the step") as activity:
        compiled = step.lower(*args).compile()
    print_on_main(f"compiled  in {duration(activity.seconds)}")
    run_on_all(lambda: memory.check_compiled(compiled, advice))
    return compiled
