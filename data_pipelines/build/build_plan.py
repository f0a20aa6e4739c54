"""The assignment of files to shards, made before any file is decoded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from typing import Any

from data_pipelines.build.catalogs.catalog import NONE_HELD_OUT, Catalog, HeldOut, Item
from data_pipelines.build.catalogs.source_tree import Ignored
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.errors import UserError
from data_pipelines.format import shard_names, storage
from data_pipelines.format import shards as shard_lib
from data_pipelines.format.metadata import Metadata

FILES_PER_SHARD = 256
_MOST_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A planned shard: its split, its file name, and its files in order."""

    split: str
    name: str
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """A planned data set.

    Attributes:
      source: the folder (or URL) of the files.
      metadata: of the data set, with an empty `left_out`.
      options: of the records.
      shards: of all splits.
      ignored: unused files of the source; they do not change the digest.
      held_out: the choice of the split `test`; its effect on the shards changes the digest.
    """

    source: str
    metadata: Metadata
    options: IngestOptions
    shards: tuple[ShardPlan, ...]
    ignored: tuple[Ignored, ...] = ()
    held_out: HeldOut = NONE_HELD_OUT

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything that determines the shards, in hexadecimal."""
        built = dataclasses.asdict(self)
        del built["ignored"], built["held_out"]
        built["source"] = storage.as_text(self.source)
        plain = json.dumps(built, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()


def make_plan(
    source: str, name: str, catalog: Catalog, options: IngestOptions, shards: int = 0
) -> BuildPlan:
    """Returns the plan of a data set.

    Files are assigned to shards in an order by hashes of their names. It mixes classes, so that
    reading shard by shard is a coarse shuffle.

    Args:
      source: the folder of the files.
      name: of the data set.
      catalog: files of the data set.
      options: of the records.
      shards: number of shards of each split; 0: one per 256 files, at most 1024.

    Raises:
      UserError: the catalog has no files, or a name is not permitted.
    """
    shard_lib.check_names(name, *catalog.splits)
    if not any(catalog.splits.values()):
        raise UserError(f"The lists of {source} name no files: download them again.")
    video, audio = ("video" in catalog.modalities, "audio" in catalog.modalities)
    metadata = Metadata(
        name=name,
        frame_rate=options.media.frame_rate if video else 0.0,
        short_side=options.media.short_side if video else 0,
        sample_rate=options.media.sample_rate if audio else 0,
        fft=options.fft,
        hop=options.hop,
        mels=options.mels,
        class_names=catalog.class_names,
        multi_label=catalog.multi_label,
        folds=catalog.folds,
    )
    plans: list[ShardPlan] = []
    for split, items in catalog.splits.items():
        mixed = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
        count = shards or min(max(math.ceil(len(items) / FILES_PER_SHARD), 1), _MOST_SHARDS)
        bounds = [len(items) * i // count for i in range(count + 1)]
        for i in range(count):
            file = shard_names.shard_name(name, split, i, count)
            plans.append(ShardPlan(split, file, tuple(mixed[bounds[i] : bounds[i + 1]])))
    return BuildPlan(source, metadata, options, tuple(plans), catalog.ignored, catalog.held_out)


def describe(plan: BuildPlan) -> dict[str, Any]:
    """Returns the source and the options of a plan, for its report."""
    chosen = {"hold_out": plan.held_out.fraction, "seed": plan.held_out.seed}
    return {"source": storage.as_text(plan.source), **dataclasses.asdict(plan.options), **chosen}


def check_outside(output: str, source: str) -> None:
    """Checks that shards are not written among the files that they are made of.

    Args:
      output: folder (or URL) of the shards.
      source: folder (or URL) of the files.

    Raises:
      UserError: the output is the source, or inside it.
    """
    if storage.is_remote(output) or storage.is_remote(source):
        inside = f"{output.rstrip('/')}/".startswith(f"{source.rstrip('/')}/")
    else:
        inner, outer = os.path.realpath(output), os.path.realpath(source)
        inside = os.path.commonpath([inner, outer]) == outer
    if inside:
        raise UserError(
            f"The shards' folder {output} is inside {source}, their source: give a folder outside"
            " the source."
        )
