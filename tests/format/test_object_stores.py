"""Shards and media files in emulators of Amazon S3 and Google Cloud Storage."""

import itertools
import json
import os
import urllib.request

import media_files
import numpy as np
import pytest
import stores
import toy_shards
import web_server

from data_pipelines.build.ingest import IngestOptions
from data_pipelines.errors import UserError
from data_pipelines.format import filesystems, storage
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.inference import feature_files
from xkd_jax.inference.file_reader import Reader


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
def test_shards_in_a_bucket_equal_local_ones(scheme, local):
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


@pytest.fixture
def clip(tmp_path) -> str:
    frames = media_files.gray_frames(range(30))
    return media_files.write(tmp_path / "clip.avi", frames, sound=media_files.tone(1.0, 44100))


def _records(path: str) -> list[bytes]:
    result = Reader(IngestOptions())(path)
    assert result.records, result.detail
    return list(result.records)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_media_files_in_a_bucket_are_listed_and_decoded(scheme, clip):
    with stores.bucket(scheme) as bucket:
        filesystems.of(bucket).put_file(clip, f"{bucket}/videos/clip.avi")
        found, ignored = feature_files.listed(f"{bucket}/videos")
        assert (found, ignored) == ([f"{bucket}/videos/clip.avi"], ())
        assert _records(found[0]) == _records(clip)


def test_media_files_of_a_list_are_read_by_http(clip):
    pytest.importorskip("aiohttp", reason="the extra 'stores' is not installed")
    folder = os.path.dirname(clip)
    with open(f"{folder}/list.txt", "w", encoding="utf-8") as file:
        file.write("clip.avi\n")
    with web_server.serving(folder) as address:
        assert feature_files.listed(f"{address}/list.txt")[0] == [f"{address}/clip.avi"]
        assert _records(f"{address}/clip.avi") == _records(clip)
        lost = Reader(IngestOptions())(f"{address}/absent.avi")
        assert (lost.reason, lost.records) == ("missing", ())
    with web_server.serving(folder, web_server.WithListing) as address:
        assert feature_files.listed(f"{address}/")[0] == [f"{address}/clip.avi"]


def test_shards_are_read_by_http(local):
    """The server lists no folders; shards are found by the index of the split."""
    pytest.importorskip("aiohttp", reason="the extra 'stores' is not installed")
    with web_server.serving(local) as address:
        for remote, here in zip(_batches(address), _batches(local), strict=True):
            np.testing.assert_array_equal(remote, here)
        there, here = (open_dataset(toy_shards.CONFIG, f, "train") for f in (address, local))
        assert there.digest == here.digest
        with pytest.raises(UserError, match=r"dataset_info\.json is damaged .*'test' 0 times"):
            open_dataset(toy_shards.CONFIG, address, "test")
        with pytest.raises(UserError, match=r"absent has no complete data set .no metadata.json"):
            open_dataset(toy_shards.CONFIG, f"{address}/absent", "train")
        with pytest.raises(UserError, match="can't be listed by HTTP"):
            storage.sizes(address)
        os.remove(f"{local}/toy-train.index")
        with pytest.raises(UserError, match=r"toy-train\.index is missing .*split_indexes"):
            open_dataset(toy_shards.CONFIG, address, "train")


def test_web_server_without_ranges_is_refused(local):
    pytest.importorskip("aiohttp", reason="the extra 'stores' is not installed")
    with web_server.serving(local, web_server.WithoutRanges) as address:
        dataset = open_dataset(toy_shards.CONFIG, address, "train")
        with pytest.raises(UserError, match="ignores requests for a range of bytes"):
            dataset[0]
