"""The memory that there is, and the check that a compiled step fits into it.

`step_memory` estimates a step before it is compiled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from data_pipelines.errors import DevicesError
from data_pipelines.host_memory import memory_limit, memory_used

GIB = 2**30
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_ASKED = re.compile(r"allocat\w*\D*([0-9]{4,})")


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
