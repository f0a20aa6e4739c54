"""Shards in the DMVR schema of scenic: files named `NAME-00000-of-000NN`."""

from __future__ import annotations

import re

from data_pipelines.errors import UserError
from data_pipelines.format import storage

_SHARD_NAME = re.compile(
    r"(?P<name>.+?)(?P<end>(\.tfrecords?)?)-(?P<shard>\d{5,9})-of-(?P<shards>\d{5,9})"
)


def has_shards(directory: str) -> bool:
    """Whether a folder contains files with names of such shards."""
    return any(map(_SHARD_NAME.fullmatch, storage.sizes(directory)))


def find_shards(directory: str, split: str) -> dict[str, int]:
    """Returns path and size of each shard whose name is the split or ends with it, in order.

    Raises:
      UserError: there are none, they are of several data sets, or a shard is missing.
    """
    found = storage.sizes(directory)
    matches = [m for m in map(_SHARD_NAME.fullmatch, sorted(found)) if m]
    builds = {
        (m["name"], m["end"], m["shards"])
        for m in matches
        if re.split(r"[-_.]", m["name"])[-1] == split or m["name"] == split
    }
    if len(builds) != 1:
        names = ", ".join(sorted({m["name"] for m in matches})) or "no such files"
        raise UserError(
            f"{directory} must have one set of shards {split}-00000-of-000NN, and it has {names}:"
            " give the folder of one data set, or another data.split."
        )
    ((name, end, shards),) = builds
    wanted = [f"{name}{end}-{i:05d}-of-{shards}" for i in range(int(shards))]
    for shard in wanted:
        if shard not in found:
            raise UserError(f"{directory} lacks the shard {shard}: copy the shard again.")
    return {storage.join(directory, shard): found[shard] for shard in wanted}
