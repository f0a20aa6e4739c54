"""The plan of a run on a slice: its true step, compiled for it, and what that says."""

from __future__ import annotations

import dataclasses
import functools
import random
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

# Clips a second that one core loads and decodes: 149 and 177 in two runs of benchmarks.loader on
# one thread of a virtual x86-64 machine; the lower one. To be measured anew on the hosts meant.
LOADER_RATE = 149.0


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Students, teachers (with the centers), the optimizer's moments and the batch are arguments of
    the step; `activations` is all that it makes on the way, `program` its own code.
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

    flops: of the matrix products of one step on all devices, nothing computed twice.
    costs, step: what each device does and how long it takes at least; None where the compiler
      found no room.
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
        """Share of the chips' peak that goes into operations that the model calls for."""
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
    """Compiles the step that a run would take, and reads the plan off it.

    Raises:
      UserError: no compiler, no such slice, or mesh or batch don't fit it.
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
    """Steps of the run over the data set that `data.records` describes.

    Raises:
      UserError: it is 0.
    """
    if not config.data.records:
        raise UserError(
            "data.records is 0: give --config.data.records=N, the number of clips to plan for."
        )
    return Length.of(config, config.data.records)


def abstract_batch(config: Config, placed: NamedSharding) -> Any:
    """A batch of the data pipeline as `jax.ShapeDtypeStruct`."""
    side = config.data.short_side
    frames = np.zeros((config.video.frames, side, side, 3), np.uint8)
    log_mel = np.zeros((config.audio.mels, config.audio.columns), np.uint16)
    clip = views.train_views(config, frames, log_mel, lambda stream: random.Random(0))

    def describe(leaf: Any) -> jax.ShapeDtypeStruct:
        array = np.asarray(leaf)
        shape = (config.batch_size, *array.shape)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=placed)

    return jax.tree.map(describe, clip)


def model_flops(config: Config, state: TrainState, batch: Any) -> float:
    """Operations of one step's matrix products over all devices, without rematerialization."""
    plain = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="none"))
    plan = schedules(plain, Length(2, 1))
    step = functools.partial(train_step, config=plain, schedules=plan)
    return count_flops(step, state, batch)


def device_bytes(tree: Any) -> float:
    """Bytes of a tree of placed shapes on each device."""
    return sum(
        np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=float) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _memory(state: TrainState, batch: Any, activations: float, program: float = 0.0) -> Memory:
    return Memory(
        students=device_bytes(state.student),
        teachers=device_bytes((state.teacher, state.centers)),
        optimizer=device_bytes((state.optimizer, state.step)),
        batch=device_bytes(batch),
        activations=activations,
        program=program,
    )


def _missing(error: Exception) -> float:
    """Bytes that a program would have needed beside its arguments, as the compiler's refusal says.

    Any other failure is raised again.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds", str(error))
    if found is None:
        raise error
    return float(found[1]) * units[found[2]]
