"""A folder with shards of a training state, written by one process to its host's disk.

`values` has the bytes of the shards, one after the other, and `index.json` the run's record with
the array, the bounds, the place and the CRC-32 of each shard. The folder gets its name when both
are complete and synced.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import durable
from xkd_jax.training.checkpoints.run_record import RunRecord, checksum
from xkd_jax.training.local.shard_placement import Bounds, shape_of

UNFINISHED = ".unfinished"  # suffix of a folder until it is complete
_VALUES, _INDEX = "values", "index.json"
_WORD = 4  # bytes; all arrays of a state have 4-byte dtypes


class Shard(NamedTuple):
    """A distinct shard of the state.

    array: item and path of its array in the state.
    bounds: of the shard.
    """

    array: str
    bounds: Bounds


class Place(NamedTuple):
    """The place of a shard in a file.

    file: with its bytes.
    offset: of its first byte.
    crc32: of its bytes.
    """

    file: Path
    offset: int
    crc32: int


@dataclasses.dataclass(frozen=True)
class ShardFolder:
    """The content of a folder: the record of the run, and the places of its shards."""

    record: dict[str, Any]
    places: dict[Shard, Place]


def write(folder: Path, record: RunRecord, shards: Sequence[tuple[Shard, np.ndarray]]) -> None:
    """Writes a folder that does not exist.

    Args:
      folder: of the shards; its parent is created.
      record: of the run at this step.
      shards: with their values, of 4-byte dtypes.

    Raises:
      OSError: it can't be written; then nothing is left.
    """
    unfinished = folder.with_name(folder.name + UNFINISHED)
    try:
        durable.make_folders(str(unfinished))
        index, offset = [], 0
        with open(unfinished / _VALUES, "wb") as file:
            for shard, values in shards:
                raw = _bytes_of(values)
                index.append([*shard, offset, zlib.crc32(raw)])
                offset += file.write(raw)
        content = {"record": record.to_json(), "shards": json.loads(json.dumps(index))}
        text = json.dumps({**content, "crc32": checksum(content)})
        (unfinished / _INDEX).write_text(text, encoding="utf-8")
        durable.sync_tree(str(unfinished))
        unfinished.rename(folder)
        durable.sync_folder(str(folder.parent))
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def read_index(folder: Path) -> ShardFolder:
    """Reads the index of a folder, without its values.

    Raises:
      OSError: it can't be read.
      ValueError: it differs from what was written.
    """
    content = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("crc32", None) != checksum(content):
        raise ValueError("its index is not what was written")
    record = RunRecord.verified(content["record"])
    places = {
        Shard(array, tuple((start, stop) for start, stop in bounds)): Place(
            folder / _VALUES, offset, crc32
        )
        for array, bounds, offset, crc32 in content["shards"]
    }
    return ShardFolder(record, places)


def read(shard: Shard, place: Place) -> np.ndarray | None:
    """Reads a shard.

    Returns:
      Its words, uint32 of its shape; None if they can't be read or differ from what was written.
    """
    size = math.prod(shape_of(shard.bounds)) * _WORD
    content = bytearray(size)
    try:
        with open(place.file, "rb") as file:
            file.seek(place.offset)
            if file.readinto(content) != size:
                return None
    except OSError:
        return None
    if zlib.crc32(content) != place.crc32:
        return None
    return np.frombuffer(content, np.uint32).reshape(shape_of(shard.bounds))


def crc32_of(values: np.ndarray) -> int:
    """Returns the checksum of a shard's values."""
    return zlib.crc32(_bytes_of(values))


def _bytes_of(values: np.ndarray) -> memoryview:
    """The bytes, without a copy if they are contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def remove(folder: Path) -> None:
    """Removes a folder with its content; what can't be removed stays."""
    shutil.rmtree(os.fspath(folder), ignore_errors=True)
