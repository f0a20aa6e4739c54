"""The plan of a run on a slice: its training step, compiled for it, and the costs of that."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from data_pipelines.errors import UserError
from data_pipelines.read import views
from xkd_jax.config.pretraining import Config
from xkd_jax.method.schedules import Length, schedules
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import train_step
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.flops import count_flops
from xkd_jax.planning.roofline import Step, predict
from xkd_jax.planning.slices import GIB, Slice
from xkd_jax.training.compiled_run import Run

# Clips per second that one core loads and decodes: the lower of two runs of benchmarks.loader (149
# and 177) with one thread on a virtual x86-64 machine. Measure it again on the run's hosts.
LOADER_RATE = 149.0


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
    """A config on a slice.

    flops: floating-point operations of one step's matrix products on all devices, without
      rematerialization.
    costs, step: costs and least duration on each device; None if the compiler reports that memory
      does not suffice.
    """

    config: Config
    where: Slice
    mesh: Mesh
    length: Length
    memory: Memory
    flops: float
    costs: Costs | None
    step: Step | None

    @property
    def fits(self) -> bool:
        return self.step is not None and self.memory.peak <= self.where.chip.hbm * GIB

    @property
    def utilization(self) -> float:
        """Model FLOPs utilization: `flops` / what the chips can do in that time."""
        assert self.step is not None
        return self.flops / (self.where.chips * self.where.chip.flops * self.step.seconds)

    @property
    def clips_per_second(self) -> float:
        assert self.step is not None
        return self.config.batch_size / self.step.seconds

    @property
    def hours(self) -> float:
        assert self.step is not None
        return self.length.steps * self.step.seconds / 3600


def make_plan(config: Config, where: Slice) -> Plan:
    """Compiles the training step for a slice and computes its plan.

    Raises:
      UserError: the slice or its compiler does not exist, or mesh or batch don't fit it.
    """
    length = planned_length(config)
    mesh = mesh_lib.make_mesh(config.mesh, where.devices())
    run = Run.create(config, length, mesh)
    batch = abstract_batch(config, run.batch_sharding)
    flops = model_flops(config, run.like, batch)
    try:
        compiled = run.step.lower(run.like, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        memory = _memory(run.like, batch, activations=_missing(error))
        return Plan(config, where, mesh, length, memory, flops, costs=None, step=None)
    found, text = compiled.memory_analysis(), compiled.as_text()
    assert found is not None
    assert text is not None
    made = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    memory = _memory(run.like, batch, made, found.generated_code_size_in_bytes)
    costs = Costs.of(text)
    return Plan(config, where, mesh, length, memory, flops, costs, step=predict(costs, where, mesh))


def planned_length(config: Config) -> Length:
    """Length of the run on a data set of `data.records` records.

    Raises:
      UserError: `data.records` is 0.
    """
    if not config.data.records:
        raise UserError(
            "data.records is 0: give --config.data.records=N, the number of records to plan for."
        )
    return Length.of(config, config.data.records)


def abstract_batch(config: Config, placed: NamedSharding) -> Any:
    """Returns a batch of the data pipeline as `jax.ShapeDtypeStruct`s with a sharding."""

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        array = np.asarray(leaf)
        shape = (config.batch_size, *array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=placed)

    return jax.tree.map(describe, views.blank_views(config))


def model_flops(config: Config, state: TrainState, batch: Any) -> float:
    """Returns the FLOPs of one step's matrix products on all devices, without rematerialization."""
    model = dataclasses.replace(config.model, remat="none", attention="xla", layers="scan")
    plain = dataclasses.replace(config, model=model)
    plan = schedules(plain, Length(2, 1))
    step = functools.partial(train_step, config=plain, schedules=plan)
    return count_flops(step, state, batch)


def _memory(state: TrainState, batch: Any, activations: float, program: float = 0.0) -> Memory:
    return Memory(
        students=mesh_lib.device_bytes(state.student),
        teachers=mesh_lib.device_bytes((state.teacher, state.centers)),
        optimizer=mesh_lib.device_bytes((state.optimizer, state.step)),
        batch=mesh_lib.device_bytes(batch),
        activations=activations,
        program=program,
    )


def _missing(error: Exception) -> float:
    """Returns the bytes of temporaries in the compiler's out-of-memory error.

    Any other error is raised again.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", str(error))
    if found is None:
        raise error
    return float(found[1]) * units[found[2]]
