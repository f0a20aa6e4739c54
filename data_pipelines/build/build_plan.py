"""Which files go into which shard of a data set, decided before any is decoded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

from data_pipelines.build.catalogs.catalog import Catalog, Item
from data_pipelines.build.catalogs.source_tree import Ignored
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.errors import UserError
from data_pipelines.format import shard_names, storage
from data_pipelines.format import shards as shard_lib
from data_pipelines.format.metadata import Metadata

_FILES_PER_SHARD = 256
_MOST_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """A shard to be: its split, its file name and the files whose records it takes, in order."""

    split: str
    name: str
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class BuildPlan:
    """A data set to be.

    Attributes:
      source: the folder (or URL) of the files.
      metadata: of the data set; nothing is left out yet.
      options: how files become records.
      shards: all of them, split by split.
      ignored: what of the source is not used; other such files make no other plan.
    """

    source: str
    metadata: Metadata
    options: IngestOptions
    shards: tuple[ShardPlan, ...]
    ignored: tuple[Ignored, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """Says whether two plans build the same."""
        built = dataclasses.asdict(self)
        del built["ignored"]
        built["source"] = storage.as_text(self.source)
        plain = json.dumps(built, sort_keys=True)
        return hashlib.sha256(plain.encode()).hexdigest()


def make_plan(
    source: str, name: str, catalog: Catalog, options: IngestOptions, shards: int = 0
) -> BuildPlan:
    """Returns the plan of a data set.

    Files are spread over the shards in an order that mixes classes but depends on their names
    alone, so that reading shard by shard is some shuffle too.

    Args:
      source: the folder of the files.
      name: of the data set.
      catalog: its files.
      options: how they become records.
      shards: of each split; 0: one for every 256 files, 1024 at most.

    Raises:
      UserError: the catalog has no files, or a name is unfit for those of the shards.
    """
    shard_lib.check_names(name, *catalog.splits)
    if not any(catalog.splits.values()):
        raise UserError(f"The lists of {source} name no file: fetch them again.")
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
        count = shards or min(max(math.ceil(len(items) / _FILES_PER_SHARD), 1), _MOST_SHARDS)
        bounds = [len(items) * i // count for i in range(count + 1)]
        for i in range(count):
            file = shard_names.shard_name(name, split, i, count)
            plans.append(ShardPlan(split, file, tuple(mixed[bounds[i] : bounds[i + 1]])))
    return BuildPlan(source, metadata, options, tuple(plans), catalog.ignored)


def describe(plan: BuildPlan) -> dict[str, Any]:
    """Returns what a person wants to know of a plan's options, for its report."""
    return {"source": storage.as_text(plan.source), **dataclasses.asdict(plan.options)}
