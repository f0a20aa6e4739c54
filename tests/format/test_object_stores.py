"""Shards in emulators of Amazon S3 and Google Cloud Storage."""

import itertools
import json
import urllib.request

import numpy as np
import pytest
import stores
import toy_shards

from data_pipelines.format import storage
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset


def _batches(folder: str) -> list[np.ndarray]:
    dataset = open_dataset(toy_shards.CONFIG, folder, "train")
    batches = pipeline.train_batches(toy_shards.CONFIG, dataset, make_views=toy_shards.plain_views)
    taken = list(itertools.islice(batches, 4))
    batches.close()
    return [b["video"]["global"]["pixels"] for b in taken] + [b["record"] for b in taken]


@pytest.fixture
def local(tmp_path) -> str:
    return toy_shards.write(tmp_path / "local", map(toy_shards.record, range(6)))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_shards_are_the_same(scheme, local):
    with stores.bucket(scheme) as bucket:
        folder = toy_shards.write(f"{bucket}/shards", map(toy_shards.record, range(6)))
        assert storage.sizes(folder) == storage.sizes(local)
        for remote, here in zip(_batches(folder), _batches(local), strict=True):
            np.testing.assert_array_equal(remote, here)


def test_records_are_read_by_ranges():
    with stores.bucket("gs") as bucket:
        _batches(toy_shards.write(f"{bucket}/ranges", map(toy_shards.record, range(6))))
        with urllib.request.urlopen(f"{stores.server('gs')}/ranges") as answer:
            assert len(json.load(answer)) >= 16
