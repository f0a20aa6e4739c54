import dataclasses

import pytest

from data_pipelines.build import build_plan
from data_pipelines.build.catalogs.catalog import Catalog, Item
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.errors import UserError


def _plan(count=100, shards=7, options=None, reverse=False, **catalog):
    items = [Item(f"clip{i}", f"c{i % 3}/clip{i}.mp4", label=i % 3) for i in range(count)]
    items = items[::-1] if reverse else items
    return build_plan.make_plan(
        "videos", "toy", Catalog({"train": items}, ("a", "b", "c"), **catalog),
        options or IngestOptions(), shards,
    )  # fmt: skip


def test_every_file_is_in_one_shard():
    plan = _plan()
    assert sorted(i.id for s in plan.shards for i in s.items) == sorted(
        f"clip{i}" for i in range(100)
    )
    assert {len(s.items) for s in plan.shards} == {14, 15}
    assert [s.name for s in plan.shards][:2] == [
        "toy-train.tfrecord-00000-of-00007",
        "toy-train.tfrecord-00001-of-00007",
    ]


def test_plan_does_not_depend_on_order_of_list():
    assert _plan() == _plan(reverse=True)
    assert _plan().digest == _plan(reverse=True).digest


def test_shards_mix_classes():
    assert all({i.label for i in s.items} == {0, 1, 2} for s in _plan().shards)


def test_number_of_shards_is_given_or_follows_from_files():
    assert len(_plan(count=3, shards=0).shards) == 1
    assert len(_plan(count=257, shards=0).shards) == 2
    assert len(_plan(count=2, shards=5).shards) == 5


def test_empty_lists_are_refused():
    with pytest.raises(UserError, match="The lists of videos name no files"):
        _plan(count=0)


def test_digest_differs_between_plans():
    other = dataclasses.replace(IngestOptions(), hop=160)
    digests = {p.digest for p in (_plan(), _plan(count=99), _plan(shards=8), _plan(options=other))}
    assert len(digests) == 4


def test_metadata_describes_modalities():
    assert _plan(modalities=("audio",)).metadata.frame_rate == 0
    assert _plan(modalities=("video",)).metadata.sample_rate == 0
    both = _plan(folds=3, multi_label=True).metadata
    assert (both.frame_rate, both.sample_rate, both.folds, both.multi_label) == (8, 16000, 3, True)
