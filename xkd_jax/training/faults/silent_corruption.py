"""Checks of devices that hold or compute wrong values without an error.

A check covers one step. Devices that hold the same part of an array of the state must hold the same
bits, and the step is computed twice from the same state and batch, which must give the same bits.
Processes exchange digests, of 4 bytes for each array and device.

A compiled step gives the same bits each time on CPUs and TPUs. On GPUs some operations add in an
order that changes, unless `XLA_FLAGS` has --xla_gpu_deterministic_ops=true.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import CorruptedStateError
from data_pipelines.terminal import count
from xkd_jax.parallel import agreement
from xkd_jax.training.checkpoints.array_digest import device_digests, first_word

_MOST = 8  # devices in a message

Advance = Callable[[Any, Any], tuple[Any, Mapping[str, jax.Array]]]


class Device(NamedTuple):
    """A device of the run: its process and its number."""

    process: int
    number: int


def checked(
    compile_step: Callable[[Any, Any], Advance], every: int, start: int
) -> Callable[[Any, Any], Advance]:
    """Returns `compile_step` whose steps are checked from time to time.

    Args:
      compile_step: (state, batch) -> the step, which donates the state alone.
      every: period of the checks in steps; 0: never.
      start: number of steps made before.
    """
    if not every:
        return compile_step
    return lambda state, batch: CheckedStep(compile_step(state, batch), every, start)


class CheckedStep:
    """A compiled step that is computed twice, and compared, at each multiple of a period."""

    def __init__(self, advance: Advance, every: int, start: int):
        """Arguments are those of `checked`; `advance` is the compiled step."""
        self._advance, self._every, self._step = advance, every, start
        self._good = start - start % every

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Mapping[str, jax.Array]]:
        """Makes a step.

        The state before the step is kept in the host's memory, and the result of the first
        computation is dropped before the second, so that devices need no more memory than without
        a check.

        Args:
          state: it is donated.
          batch: on the devices.

        Raises:
          CorruptedStateError: a device differs; the same on every process.
        """
        self._step += 1
        if self._step % self._every:
            return self._advance(state, batch)
        names, devices, places = _layout(state)
        held, kept = _everywhere(device_digests(state)), _to_host(state)
        first = _everywhere(device_digests(self._advance(state, batch)))
        result = self._advance(_to_devices(kept), batch)
        second = _everywhere(device_digests(result))
        made, _, parts = _layout(result)
        for fault, arrays, wrong in (
            ("different copies of", names, odd_copies(places, held)),
            ("other values in a second computation of", made, first != second),
            ("different results for", made, odd_copies(parts, second)),
        ):
            if wrong.any():
                where = described(fault, wrong, arrays, devices, agreement.hosts())
                raise CorruptedStateError(
                    f"Step {self._step}: {where}; the run stops without saving: take the host out"
                    f" of the run, move checkpoints after step {self._good} away, local ones too,"
                    " as they are not checked, and run the same command again."
                )
        self._good = self._step
        return result


def odd_copies(places: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Finds the devices whose part differs from that of most devices with the same part.

    Without a most common digest, all devices with the part are found.

    Args:
      places: position of the first word of each device's part, int64 [arrays, devices].
      digests: of the parts, uint32 [arrays, devices].

    Returns:
      bool [arrays, devices].
    """
    odd = np.zeros(digests.shape, bool)
    for i, (place, digest) in enumerate(zip(places, digests, strict=True)):
        _, first, part = np.unique(place, return_index=True, return_inverse=True)
        for number in np.unique(part[digest != digest[first[part]]]):
            copies = np.flatnonzero(part == number)
            (value, most), *others = collections.Counter(digest[copies].tolist()).most_common(2)
            tie = most == others[0][1]
            odd[i, copies] = tie | (digest[copies] != value)
    return odd


def described(
    fault: str,
    wrong: np.ndarray,
    arrays: Sequence[str],
    devices: Sequence[Device],
    hosts: Sequence[str],
) -> str:
    """Returns words that name hosts, devices and arrays.

    Args:
      fault: description of the fault, ending with a preposition.
      wrong: bool [arrays, devices]; at least one is True.
      arrays: name of each array.
      devices: each device.
      hosts: host name of each process.
    """
    which, where = np.flatnonzero(wrong.any(axis=1)), np.flatnonzero(wrong.any(axis=0))
    more = f" and {count(len(which) - 1, 'other array')}" if len(which) > 1 else ""
    what = f"{fault} {arrays[which[0]]}{more}"
    if 1 < len(where) == len(devices):
        return (
            f"{what} on all {len(devices)} devices, so that the one with the fault is not known"
            " (test each host alone)"
        )
    named = [
        f"device {devices[i].number} of process {devices[i].process} ({hosts[devices[i].process]})"
        for i in where[:_MOST]
    ]
    rest = f" and {count(len(where) - _MOST, 'other device')}" if len(where) > _MOST else ""
    return f"{what} on {', '.join(named)}{rest}"


def _layout(tree: Any) -> tuple[list[str], list[Device], np.ndarray]:
    """Returns the arrays' names, all devices, and the argument `places` of `odd_copies`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    order = sorted(leaves[0][1].sharding.device_set, key=lambda d: (d.process_index, d.id))
    places = [
        [first_word(indices[device], leaf.shape) for device in order]
        for _, leaf in leaves
        for indices in [leaf.sharding.devices_indices_map(leaf.shape)]
    ]
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return names, [Device(d.process_index, d.id) for d in order], np.array(places, np.int64)


def _everywhere(here: np.ndarray) -> np.ndarray:
    """Returns the digests of all devices, [arrays, all devices], from those of each process."""
    if jax.process_count() == 1:
        return here
    everywhere = np.asarray(multihost_utils.process_allgather(here))
    return np.concatenate(list(everywhere), axis=1)


class _Kept(NamedTuple):
    """An array in the host's memory: its shape, dtype and sharding, and {first word: a part}."""

    like: jax.ShapeDtypeStruct
    parts: dict[int, np.ndarray]

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        return self.parts[first_word(index, self.like.shape)]


def _to_host(tree: Any) -> Any:
    """Copies this process's parts of the arrays to its memory, each part once."""

    def keep(leaf: jax.Array) -> _Kept:
        parts = {first_word(s.index, leaf.shape): s for s in leaf.addressable_shards}
        return _Kept(
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            # A copy: on CPUs the buffer itself is donated next.
            {place: np.array(shard.data) for place, shard in parts.items()},
        )

    return jax.tree.map(keep, tree)


def _to_devices(kept: Any) -> Any:
    """Returns the arrays of `_to_host` on their devices."""
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(leaf.like.shape, leaf.like.sharding, leaf.part),
        kept,
        is_leaf=lambda leaf: isinstance(leaf, _Kept),
    )
