"""Whether a step fits into memory: an estimate before it is compiled, the compiler's number after.

What does not fit is one sentence with the flags that fit, in place of an allocation that fails.
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

from data_pipelines.errors import UserError
from data_pipelines.host_memory import memory_limit, memory_used
from data_pipelines.loader_config import Modality
from xkd_jax.config.pretraining import Config, Remat
from xkd_jax.method.objective import ModalityViews
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import loss_function, masked
from xkd_jax.parallel.mesh import device_bytes

GIB = 2**30
# What the compiled step needs of the activations that its gradient keeps: 1.3 times as much was
# measured on CPUs, with what it holds for a moment.
_MOMENTARY = 1.3
# Only a step whose estimate is above the memory by this is refused before it is compiled: the
# compiler may find a schedule that keeps less.
_CLEARLY = 1.6
# Numbers that are kept of a token in a block, at most. Where even they are few, nothing is traced.
_KEPT_AT_MOST = 64
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_ASKED = re.compile(r"allocat\w*\D*([0-9]{4,})")
_REMATS: tuple[Remat, ...] = ("none", "products", "all")


@dataclasses.dataclass(frozen=True)
class Room:
    """Memory for arrays.

    total: bytes on all devices; infinite where the platform does not tell.
    devices: their number.
    where: whose it is.
    """

    total: float
    devices: int
    where: str

    @property
    def each(self) -> float:
        """Bytes for each device."""
        return self.total / self.devices


def room(devices: list[Any]) -> Room:
    """The memory of devices of one kind; those of a CPU share the machine's or its container's.

    What this process uses beside arrays is no room for them.
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
    """Bytes on each device of a step that is not compiled.

    state: parameters, optimizer and gradients, whatever the batch.
    kept: activations that the gradient keeps, of the whole batch.
    """

    state: float
    kept: float

    def needed(self, share: float = 1.0) -> float:
        """Of a step on this share of the batch."""
        return self.state + _MOMENTARY * self.kept * share


def estimate(config: Config, like: TrainState, devices: int) -> Estimate:
    """Estimates a step from shapes alone, which takes about a second.

    Args:
      config: of the run.
      like: its state, as `jax.ShapeDtypeStruct` with shardings.
      devices: of the mesh, over which activations are divided.
    """

    def kept(state: TrainState) -> Any:
        views = {m: _views(config, m) for m in config.architecture.modalities}
        inputs = masked(views, state.step, config)
        temperatures = dict.fromkeys(views, jnp.float32(1))
        loss_of = loss_function(state, temperatures, inputs, config.architecture, config.loss)
        return jax.vjp(loss_of, state.student, has_aux=True)[1]

    leaves = jax.tree.leaves(jax.eval_shape(kept, like))
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return Estimate(device_bytes(like) + device_bytes(like.student), size / devices)


def _views(config: Config, modality: Modality) -> ModalityViews:
    view = config.modality(modality)
    found = {"global": jnp.zeros((config.batch_size, *view.global_shape, *view.channels))}
    if view.local_views:
        shape = (view.local_views, config.batch_size, *view.local_shape, *view.channels)
        found["local"] = jnp.zeros(shape)
    return cast(ModalityViews, found)


def may_be_large(config: Config, there: Room, devices: int) -> bool:
    """Whether a step might not fit, by a bound that costs no tracing.

    Args:
      config: of the run.
      there: the memory of this process's devices.
      devices: of the mesh.
    """
    views = [config.modality(m) for m in config.architecture.modalities]
    tokens = sum(v.tokens + v.local_views * math.prod(v.local_grid) for v in views)
    block = tokens * config.model.encoder.width * config.model.encoder.depth
    return 4.0 * _KEPT_AT_MOST * config.batch_size * block / devices > there.each / 2


def check_estimate(config: Config, like: TrainState, devices: int) -> None:
    """Refuses, before it is compiled, a step that clearly does not fit.

    Args:
      config: of the run.
      like: its state, as `jax.ShapeDtypeStruct` with shardings.
      devices: of the mesh.

    Raises:
      UserError: it does not fit; with flags that do.
    """
    there = room(jax.local_devices())
    if not may_be_large(config, there, devices):
        return
    needed = estimate(config, like, devices).needed()
    if needed > _CLEARLY * there.each:
        require(needed, there, lambda: flags_that_fit(config, like, there, devices), "about ")


def check_compiled(compiled: jax.stages.Compiled, advice: Callable[[Room, float], str]) -> None:
    """Refuses a step that does not fit, by what the compiler says.

    Args:
      compiled: the step.
      advice: (memory, bytes that the step needs on each device) -> the words that follow "give".

    Raises:
      UserError: it does not fit.
    """
    found = compiled.memory_analysis()
    if found is None:  # not every platform has it
        return
    made = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    needed, there = float(made + found.argument_size_in_bytes), room(jax.local_devices())
    require(needed, there, lambda: advice(there, needed))


def require(needed: float, there: Room, advice: Callable[[], str], about: str = "") -> None:
    """Refuses a step that does not fit.

    Args:
      needed: bytes on each device.
      there: the memory.
      advice: gives the words that follow "give".
      about: "about " for an estimate.

    Raises:
      UserError: it does not fit.
    """
    if needed > there.each:
        raise UserError(
            f"A step needs {about}{needed * there.devices / GIB:.1f} GiB of memory, and"
            f" {there.where} has {there.total / GIB:.1f} GiB for it: give {advice()}."
        )


@contextlib.contextmanager
def exhaustion(advice: str) -> Iterator[None]:
    """Converts the error of an allocation that fails to a sentence.

    Args:
      advice: the words that follow "give".

    Raises:
      UserError: memory was exhausted.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _EXHAUSTED not in str(error):
            raise
        there, asked = room(jax.local_devices()), _ASKED.search(str(error))
        what = f"another {int(asked[1]) / GIB:.1f} GiB" if asked else "what was needed"
        raise UserError(
            f"Memory is exhausted: {there.where} has {there.total / GIB:.1f} GiB for arrays, and"
            f" {what} did not fit: give {advice}."
        ) from None


def flags_that_fit(
    config: Config, like: TrainState, there: Room, devices: int, needed: float | None = None
) -> str:
    """The flags with which a step fits: a smaller batch, rematerialization, divided parameters.

    Each that is named allows a larger batch than those before it, which cost less.

    Args:
      config: that does not fit.
      like: its state, as `jax.ShapeDtypeStruct` with shardings.
      there: the memory.
      devices: of the mesh.
      needed: bytes on each device of the compiled step; None: not known.
    """
    known = estimate(config, like, devices)
    scale = 1.0 if needed is None else needed / known.needed()
    remat, options, best = config.model.remat, [], 0
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
    """The largest half, quarter, ... of a batch that fits; 0: none does.

    Args:
      batch_size: of the estimate.
      there: the memory.
      of: the estimate of a step on the whole batch.
      scale: is multiplied with the estimate.
    """
    batch = batch_size
    while batch and scale * of.needed(batch / batch_size) > there.each:
        batch //= 2
    return batch
