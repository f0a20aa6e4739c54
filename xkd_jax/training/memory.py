"""Checks that a step fits into memory: by an estimate before its compilation, exactly after it.

If it does not fit, the message has flags with which it fits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp

from data_pipelines.errors import DevicesError
from data_pipelines.host_memory import memory_limit, memory_used
from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import Remat
from xkd_jax.config.pretraining import Config
from xkd_jax.method.objective import ModalityViews
from xkd_jax.method.state_shardings import parameter_shardings
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import loss_function, masked
from xkd_jax.networks.remat import chosen
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.parallel.mesh import device_bytes

GIB = 2**30
# Memory of the compiled step / activations saved for its gradient, as measured on CPUs; the
# difference is temporaries.
_TEMPORARIES = 1.3
# A step is refused before its compilation only if its estimate exceeds the memory by this factor,
# as the compiler may find a schedule that needs less.
_MARGIN = 1.6
# Upper bound of the values per token, block and unit of width that are saved for the gradient.
_MAX_SAVED = 64
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_ASKED = re.compile(r"allocat\w*\D*([0-9]{4,})")
_REMATS: tuple[Remat, ...] = ("none", "products", "all")


@dataclasses.dataclass(frozen=True)
class Room:
    """Memory for arrays.

    total: bytes of all devices; infinite if unknown.
    devices: number of devices.
    where: name of the devices or the machine, for messages.
    """

    total: float
    devices: int
    where: str

    @property
    def each(self) -> float:
        """Bytes for each device."""
        return self.total / self.devices


def room(devices: list[Any]) -> Room:
    """Returns the memory for arrays on devices of one kind.

    Devices of a CPU share the memory of the machine or its container, without what this process
    uses for other purposes.

    Args:
      devices: `jax.Device`s of one kind.
    """
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        shards = (shard for array in jax.live_arrays() for shard in array.addressable_shards)
        arrays = sum(shard.data.nbytes for shard in shards)
        total = memory_limit() - max(0, memory_used() - arrays)
        return Room(max(total, 0), len(devices), "this machine")
    limits = [(device.memory_stats() or {}).get("bytes_limit", math.inf) for device in devices]
    name = f"{len(devices)} x {kind}" if len(devices) > 1 else kind
    return Room(min(limits) * len(devices), len(devices), name)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimated bytes of a step on each device.

    state: parameters, optimizer's state and gradients, and gathered parameters.
    kept: activations of the whole batch that are saved for the gradient.
    """

    state: float
    kept: float

    def needed(self, fraction: float = 1.0) -> float:
        """Returns the bytes of a step on a fraction of the batch."""
        return self.state + _TEMPORARIES * self.kept * fraction


def estimate(config: Config, like: TrainState, devices: int) -> Estimate:
    """Estimates the memory of a step from shapes, in about a second.

    Args:
      config: the run's config.
      like: the state, as `jax.ShapeDtypeStruct` with shardings.
      devices: number of devices of the mesh, which divide the activations.
    """

    def kept(state: TrainState) -> Any:
        views = {m: _views(config, m) for m in config.architecture.modalities}
        inputs = masked(views, state.step, config)
        temperatures = dict.fromkeys(views, jnp.float32(1))
        loss_of = loss_function(state, temperatures, inputs, config.architecture, config.loss)
        return jax.vjp(loss_of, state.student, has_aux=True)[1]

    leaves = jax.tree.leaves(jax.eval_shape(kept, like))
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return Estimate(device_bytes(like) + _weights(config, like), size / devices)


def _weights(config: Config, like: TrainState) -> float:
    """Returns the bytes on each device of gradients, and of weights that a step gathers."""
    if config.mesh.optimizer == "whole":
        return device_bytes(like.student)
    counter: Any = like.step.sharding
    student, teacher = (
        jax.tree.map(
            lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
            params,
            parameter_shardings(cls, config.architecture, counter.mesh),
        )
        for cls, params in ((Student, like.student), (Teacher, like.teacher))
    )
    return 2 * device_bytes(student) + device_bytes(teacher)


def _views(config: Config, modality: Modality) -> ModalityViews:
    view = config.modality(modality)
    found = {"global": jnp.zeros((config.batch_size, *view.global_shape, *view.channels))}
    if view.local_views:
        shape = (view.local_views, config.batch_size, *view.local_shape, *view.channels)
        found["local"] = jnp.zeros(shape)
    return cast(ModalityViews, found)


def may_be_large(config: Config, there: Room, devices: int) -> bool:
    """Whether a step may exceed the memory, by an upper bound that needs no tracing.

    Args:
      config: the run's config.
      there: the memory of this process's devices.
      devices: number of devices of the mesh.
    """
    views = [config.modality(m) for m in config.architecture.modalities]
    tokens = sum(v.tokens + v.local_views * math.prod(v.local_grid) for v in views)
    block = tokens * config.model.encoder.width * config.model.encoder.depth
    return 4.0 * _MAX_SAVED * config.batch_size * block / devices > there.each / 2


def check_estimate(config: Config, like: TrainState, devices: int) -> None:
    """Checks the estimate of a step before its compilation.

    Args:
      config: the run's config.
      like: the state, as `jax.ShapeDtypeStruct` with shardings.
      devices: number of devices of the mesh.

    Raises:
      DevicesError: the step clearly does not fit; with flags that fit.
    """
    there = room(jax.local_devices())
    if not may_be_large(config, there, devices):
        return
    needed = estimate(config, like, devices).needed()
    if needed > _MARGIN * there.each:
        require(needed, there, lambda: flags_that_fit(config, like, there, devices), "about ")


def check_compiled(compiled: jax.stages.Compiled, advice: Callable[[Room, float], str]) -> None:
    """Checks the memory of a compiled step.

    Args:
      compiled: the step.
      advice: (memory, bytes of the step on each device) -> words after "give" in the message.

    Raises:
      DevicesError: the step does not fit.
    """
    found = compiled.memory_analysis()
    if found is None:  # not available on all platforms
        return
    made = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    needed, there = float(made + found.argument_size_in_bytes), room(jax.local_devices())
    require(needed, there, lambda: advice(there, needed))


def require(needed: float, there: Room, advice: Callable[[], str], about: str = "") -> None:
    """Checks that a step fits into memory.

    Args:
      needed: bytes of the step on each device.
      there: the memory.
      advice: returns the words after "give" in the message.
      about: "about " for an estimate.

    Raises:
      DevicesError: the step does not fit.
    """
    if needed > there.each:
        raise DevicesError(
            f"A step needs {about}{needed * there.devices / GIB:.1f} GiB of memory, and"
            f" {there.where} has {there.total / GIB:.1f} GiB for it: give {advice()}."
        )


@contextlib.contextmanager
def exhaustion(advice: str) -> Iterator[None]:
    """Converts an out-of-memory error to a `DevicesError`.

    Args:
      advice: words after "give" in the message.

    Raises:
      DevicesError: an allocation failed.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        there, asked = room(jax.local_devices()), _ASKED.search(str(error))
        what = f"another {int(asked[1]) / GIB:.1f} GiB" if asked else "what was needed"
        raise DevicesError(
            f"Memory is exhausted: {there.where} has {there.total / GIB:.1f} GiB for arrays, and"
            f" {what} did not fit: give {advice}."
        ) from None


def flags_that_fit(
    config: Config, like: TrainState, there: Room, devices: int, needed: float | None = None
) -> str:
    """Returns flags with which a step fits: smaller batch, rematerialization, divided parameters.

    Alternatives are sorted by cost; each allows a larger batch than those before it.

    Args:
      config: a config that does not fit.
      like: its state, as `jax.ShapeDtypeStruct` with shardings.
      there: the memory.
      devices: number of devices of the mesh.
      needed: bytes of the compiled step on each device; None: not known.
    """
    known = estimate(config, like, devices)
    scale = 1.0 if needed is None else needed / known.needed()
    remat = chosen(config.model.remat, jax.local_devices()[0])
    options, best = [], 0
    for other in _REMATS[_REMATS.index(remat) :]:
        changed = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=other))
        found = known if other == remat else estimate(changed, like, devices)
        divided = dataclasses.replace(found, state=found.state / devices)
        again = f"--config.model.remat={other}" if other != remat else ""
        split = f"--config.mesh.fsdp={devices}"
        for of, flags in ((found, again), (divided, f"{again} {split}".strip())):
            if of is divided and (devices == 1 or config.mesh.fsdp != 1):
                continue
            batch = largest_batch(config.batch_size, there, of, scale)
            if batch > best:
                smaller = f"--config.batch_size={batch} " if batch < config.batch_size else ""
                options.append(f"{smaller}{flags}".strip())
                best = batch
    return ", or ".join(options) or "a smaller --config.model.size"


def largest_batch(batch_size: int, there: Room, of: Estimate, scale: float = 1.0) -> int:
    """Returns the largest of batch, batch / 2, batch / 4, ... that fits, or 0.

    Args:
      batch_size: batch of the estimate.
      there: the memory.
      of: estimate of a step on the whole batch.
      scale: factor of the estimate.
    """
    batch = batch_size
    while batch and scale * of.needed(batch / batch_size) > there.each:
        batch //= 2
    return batch
