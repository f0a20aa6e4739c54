"""The plan of a run on TPUs or GPUs: its training step, compiled for them, and its costs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines.errors import UserError
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import views
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config
from xkd_jax.method.schedules import schedules
from xkd_jax.method.train_state import TrainState
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning import listings
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.flops import count_flops
from xkd_jax.planning.hlo_text.arrays import UnknownTextError
from xkd_jax.planning.hlo_text.exhausted import missing_memory
from xkd_jax.planning.roofline import Step, predict
from xkd_jax.planning.targets import Target
from xkd_jax.training.compiled_run import Run, optimizer_of, run_of, step_of

# Clips per second that one core loads and decodes: the lower of two runs of benchmarks.loader (360
# and 373) with one thread on a virtual x86-64 machine. Measure it again on the run's hosts.
LOADER_RATE = 360.0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Students, teachers (with the centers), the optimizer's moments and the batch are arguments of
    the step; `activations` are its temporaries, `program` is its code.
    """

    students: float
    teachers: float
    optimizer: float
    batch: float
    activations: float
    program: float = 0.0

    @property
    def peak(self) -> float:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on devices.

    flops: floating-point operations of one step's matrix products on all devices, without
      rematerialization.
    compiles: whether the compiler finds that memory suffices.
    costs, step: costs and durations on each device; None if it does not compile, or if the
      program's text is unknown.
    unknown: description of the unknown part of that text.
    """

    config: Config
    where: Target
    mesh: Mesh
    length: Length
    memory: Memory
    flops: float
    compiles: bool
    costs: Costs | None
    step: Step | None
    unknown: str = ""

    @property
    def fits(self) -> bool:
        return self.compiles and self.memory.peak <= self.where.chip.hbm * GIB

    @property
    def seconds(self) -> float:
        """The step's duration by the compiler's cycles, or by the roofline where it writes none."""
        assert self.step is not None
        compiled = self.step.compiled is not None
        return self.step.compiled_seconds if compiled else self.step.seconds

    def utilization(self, seconds: float) -> float:
        """Model FLOPs utilization: `flops` / (peak FLOPs of the chips in that time)."""
        return self.flops / (self.where.chips * self.where.chip.flops * seconds)

    def clips_per_second(self, seconds: float) -> float:
        """Clips of all devices with steps of this duration."""
        return self.config.batch_size / seconds

    def hours(self, seconds: float) -> float:
        """Hours of the run with steps of this duration."""
        return self.length.steps * seconds / 3600


def make_plan(config: Config, where: Target) -> Plan:
    """Compiles the training step for devices and computes its plan.

    Raises:
      UserError: the devices or their compiler do not exist, or mesh or batch don't fit them.
    """
    length = planned_length(config)
    mesh = mesh_lib.make_mesh(config.mesh, where.devices())
    run = run_of(config, length, mesh)
    batch = abstract_batch(config, run.batch_sharding)
    flops = model_flops(config, run.like, batch)
    planned = functools.partial(Plan, config, where, mesh, length)
    try:
        with listings.written():
            compiled = _lower(run, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        missing = missing_memory(str(error))
        if missing is None:
            raise
        memory = _memory(run.like, batch, activations=missing)
        return planned(memory, flops, compiles=False, costs=None, step=None)
    found, text = compiled.memory_analysis(), compiled.as_text()
    assert found is not None
    assert text is not None
    made = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    memory = _memory(run.like, batch, made, found.generated_code_size_in_bytes)
    try:
        costs = Costs.of(text, where.chip.platform, where.chip.passes).with_listings()
    except UnknownTextError as error:
        return planned(memory, flops, compiles=True, costs=None, step=None, unknown=str(error))
    return planned(memory, flops, compiles=True, costs=costs, step=predict(costs, where, mesh))


def _lower(run: Run, batch: Any) -> jax.stages.Lowered:
    try:
        return run.step.lower(run.like, batch)
    except RuntimeError as error:
        if "cuDNN not found" not in str(error):
            raise
        raise UserError(
            "A plan with cuDNN's attention needs cuDNN, which is not installed: pip install"
            " nvidia-cudnn-cu12, or leave out --config.model.attention=cudnn."
        ) from None


def planned_length(config: Config) -> Length:
    """Length of the run on a data set of `data.records` records.

    Raises:
      UserError: `data.records` is 0.
    """
    if not config.data.records:
        raise UserError(
            "data.records is 0: give --config.data.records=N, the number of records to plan for."
        )
    return config.length(config.data.records)


def abstract_batch(config: LoaderConfig, placed: NamedSharding) -> Any:
    """Returns a batch of the data pipeline as `jax.ShapeDtypeStruct`s with a sharding.

    Args:
      config: batch size and views.
      placed: the sharding of every array.
    """

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        array = np.asarray(leaf)
        shape = (config.batch_size, *array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=placed)

    return jax.tree.map(describe, views.blank_views(config))


def model_flops(config: Config, state: TrainState, batch: Any) -> float:
    """Returns the FLOPs of one step's matrix products on all devices, without rematerialization.

    Args:
      config: of the run.
      state: arrays or their shapes.
      batch: arrays of the global batch, or their shapes.
    """
    model = dataclasses.replace(config.model, remat="none", attention="xla", layers="scan")
    video = dataclasses.replace(config.video, kernel="xla")
    plain = dataclasses.replace(config, model=model, video=video)
    plan = schedules(plain.optimizer, plain.teacher_temperatures, Length(2, 1))
    return count_flops(step_of(plain, plan, optimizer_of(plain, plan)), state, batch)


def _memory(state: TrainState, batch: Any, activations: float, program: float = 0.0) -> Memory:
    return Memory(
        students=mesh_lib.device_bytes(state.student),
        teachers=mesh_lib.device_bytes((state.teacher, state.centers)),
        optimizer=mesh_lib.device_bytes((state.optimizer, state.step)),
        batch=mesh_lib.device_bytes(batch),
        activations=activations,
        program=program,
    )
