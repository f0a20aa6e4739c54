"""Groups of devices of a collective, in each of XLA's notations."""

from __future__ import annotations

import math
import re

import numpy as np

from xkd_jax.planning.hlo_text.arrays import UnknownTextError

# mesh['data'=2,'fsdp'=4] {'fsdp'}; with device_ids=([4,2]T(1,0)) if devices are not in order
_MESH = re.compile(
    r"replica_groups=mesh\[(?P<mesh>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))?"
    r"\s*\{(?P<split>[^}]*)\}"
)
# {1,2}x{0:7}: slices 1 and 2, devices 0 to 7 of each
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}x\{([\d,:]+)\}"')
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


def first_group(text: str) -> tuple[int, ...]:
    """Returns the first group: indices of devices in the flattened mesh.

    Args:
      text: attributes of a collective.

    Raises:
      UnknownTextError: they have no group in a known notation.
    """
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return int(found[1]), int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return tuple(int(n) for n in found[1].split(","))
    if found := _MESH.search(text):
        return _mesh_group(found["mesh"], found["split"], found["shape"], found["order"])
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return tuple(_counted(found[3], found[4])[: int(found[2])].tolist())
    raise UnknownTextError(f"the devices of a collective: {text[:200]}")


def between_slices(text: str) -> tuple[str, tuple[int, ...]] | None:
    """Returns kind and group of a collective between slices, None for other transfers.

    Args:
      text: attributes of a `send`; it has one device of each slice as group.

    Raises:
      UnknownTextError: it is a transfer between slices in an unknown notation.
    """
    if "_xla_megascale" not in text:
        return None
    kind, target = _TRANSFER.search(text), _SLICES.search(text)
    if kind is None or target is None:
        raise UnknownTextError(f"a transfer between slices: {text[:200]}")
    slices, devices = (_length(part) for part in target.groups())
    return kind[1].lower().replace("_", "-"), tuple(i * devices for i in range(slices))


def _length(text: str) -> int:
    """Number of integers in `1,2` or `0:7`."""
    first, ranged, last = text.partition(":")
    return int(last) - int(first) + 1 if ranged else len(text.split(","))


def _mesh_group(mesh: str, split: str, shape: str | None, order: str | None) -> tuple[int, ...]:
    """The devices along the axes in `split`, at index 0 of all other axes."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    chosen = re.findall(r"'(\w+)'", split)
    devices = _counted(shape or str(math.prod(sizes.values())), order).reshape([*sizes.values()])
    group = devices[tuple(slice(None) if name in chosen else 0 for name in sizes)]
    return tuple(sorted(group.ravel().tolist()))


def _counted(shape: str, order: str | None) -> np.ndarray:
    """Flattened `arange` of the shape with axes in `order`: XLA's notation [shape]T(order)."""
    sizes = [int(n) for n in shape.split(",")]
    axes = [int(n) for n in order.split(",")] if order else None
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(axes).ravel()
