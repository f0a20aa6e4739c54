"""File names of shards, those of tensorflow-datasets."""

from __future__ import annotations

import re

from data_pipelines.errors import UserError
from data_pipelines.format import storage

_SHARD_NAME = re.compile(
    r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord-(?P<shard>\d{5,9})-of-(?P<shards>\d{5,9})"
)


def shard_name(name: str, split: str, shard: int, shards: int) -> str:
    """Returns the file name of a shard, that of tensorflow-datasets.

    Args:
      name: of the data set.
      split: of the shard.
      shard: number of the shard in the split, from 0.
      shards: number of shards of the split.
    """
    return f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def find_shards(directory: str, split: str) -> dict[str, int]:
    """Returns path and size of each shard of a split, in order.

    Raises:
      UserError: there are none, a shard is missing, or they are of several data sets or builds.
    """
    found = storage.sizes(directory)
    matches = [m for m in map(_SHARD_NAME.fullmatch, sorted(found)) if m]
    splits = sorted({m["split"] for m in matches})
    matches = [m for m in matches if m["split"] == split]
    if not matches:
        held = f"it has {', '.join(splits)}" if splits else "build them with data_pipelines.build"
        raise UserError(f"{directory} has no shards of the split {split!r}: {held}.")
    builds = {(m["name"], int(m["shards"])) for m in matches}
    if len(builds) > 1:
        kinds = " and ".join(shard_name(n, split, 0, c) for n, c in sorted(builds))
        raise UserError(
            f"{directory} has shards of several builds ({kinds}): remove all but one build."
        )
    ((name, shards),) = builds
    wanted = [shard_name(name, split, i, shards) for i in range(shards)]
    missing = [n for n in wanted if n not in found]
    if missing:
        raise UserError(
            f"{directory} lacks {len(missing)} of {shards} shards (first: {missing[0]}):"
            " copy or build them again."
        )
    return {storage.join(directory, n): found[n] for n in wanted}
