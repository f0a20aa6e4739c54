"""The records of a file are kept in memory or in a temporary file."""

import contextlib
import pickle
import tracemalloc

import media_files
import numpy as np
import pytest

from data_pipelines.build import build_plan, builder, file_records, media
from data_pipelines.build.build_plan import ShardPlan
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Item, Source
from data_pipelines.build.file_records import RecordCollector
from data_pipelines.build.ingest import FileResult, IngestOptions, ingest
from data_pipelines.build.media import MediaError, MediaOptions
from data_pipelines.errors import UnreachableError
from data_pipelines.format import record_schema

RECORDS = [bytes([i]) * (100 * i) for i in range(1, 20)]


def _collect(directory, records=RECORDS):
    with RecordCollector(directory) as collector:
        for record in records:
            collector.add(record)
        assert len(collector) == len(records)
        return collector.finish()


@pytest.mark.parametrize("limit", [0, 150, 4000, 1 << 20])
def test_records_are_returned_in_order(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(file_records, "MAX_BYTES", limit)
    records = pickle.loads(
        pickle.dumps(_collect(str(tmp_path)))
    )  # as for the transfer between processes
    assert list(records) == list(records) == RECORDS
    assert len(records) == len(RECORDS)
    assert (records[0], records[7], records[-1]) == (RECORDS[0], RECORDS[7], RECORDS[-1])
    assert list(records[2:5]) == RECORDS[2:5]
    total = sum(map(len, RECORDS))
    assert file_records.bytes_in_memory(records) == (total if limit >= total else 0)
    assert len(list(tmp_path.iterdir())) == (limit < total)
    file_records.discard(records)
    assert not list(tmp_path.iterdir())


def test_without_folder_records_stay_in_memory(monkeypatch):
    monkeypatch.setattr(file_records, "MAX_BYTES", 10)
    assert _collect(None) == tuple(RECORDS)


def test_exception_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(file_records, "MAX_BYTES", 10)
    collector = RecordCollector(str(tmp_path))
    with contextlib.suppress(ZeroDivisionError), collector:
        collector.add(RECORDS[5])
        assert list(tmp_path.iterdir())
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_unwritable_temporary_folder_is_not_a_fault_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(file_records, "MAX_BYTES", 10)
    with pytest.raises(UnreachableError, match="can't store temporary files of records"):
        _collect(str(tmp_path / "absent"))


def _slideshow(folder) -> Item:
    """Four noisy pictures of 30 s each: 2.5 MB of frames every 10 s."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (128, 128, 3), np.uint8) for _ in range(4)]
    times = [30.0 * i for i in range(4)]
    media_files.write(folder / "a.mkv", frames, times=times, codec="ffv1")
    return Item("a", "a.mkv", end=100.0)


def _ingest(folder, item, waiting=None):
    decoding = MediaOptions(audio=False, short_side=128, jpeg_quality=100)
    options = IngestOptions(decoding, max_seconds=10.0)
    return ingest(item, lambda: None, directory=str(folder), options=options, waiting=waiting)


def test_memory_is_bounded_by_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr(file_records, "MAX_BYTES", 1 << 20)
    (tmp_path / "waiting").mkdir()
    item = _slideshow(tmp_path)
    tracemalloc.start()
    result = _ingest(tmp_path, item, str(tmp_path / "waiting"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result.reason, len(result.records)) == ("", 9)
    largest = max(map(len, result.records))
    total = sum(map(len, result.records))
    assert largest > 2 << 20
    assert total > 18 << 20
    assert peak < 4 * largest < total / 2
    assert tuple(result.records) == _ingest(tmp_path, item).records


def test_shard_has_equal_bytes_from_memory_and_from_temporary_files(tmp_path, monkeypatch):
    item = _slideshow(tmp_path)
    contents = []
    for limit in (1 << 40, 1000):
        monkeypatch.setattr(file_records, "MAX_BYTES", limit)
        waiting = tmp_path / f"waiting {limit}"
        waiting.mkdir()
        result = _ingest(tmp_path, item, str(waiting))
        assert len(list(waiting.iterdir())) == (limit == 1000)
        output = tmp_path / f"out {limit}"
        (output / ".build").mkdir(parents=True)
        builder.write_shard(ShardPlan("train", "a", (item,)), [result], str(output))
        assert not list(waiting.iterdir())
        contents.append((output / "a").read_bytes())
    assert contents[0] == contents[1]


def test_file_damaged_later_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(file_records, "MAX_BYTES", 1000)
    (tmp_path / "waiting").mkdir()
    item = _slideshow(tmp_path)
    decode = media.decode

    def damaged_later(path, options, start, end):
        if start > 50:
            raise MediaError(path, "damaged", "its video can't be decoded")
        return decode(path, options, start, end)

    monkeypatch.setattr(media, "decode", damaged_later)
    result = _ingest(tmp_path, item, str(tmp_path / "waiting"))
    assert (result.records, result.reason) == ((), "damaged")
    assert not list((tmp_path / "waiting").iterdir())


def test_record_beyond_bounds_is_left_out_with_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(record_schema, "MAX_FRAMES", 50)
    result = _ingest(tmp_path, _slideshow(tmp_path))
    assert result == FileResult((), "too large", result.detail)
    assert "80 frames, more than 50" in result.detail
    assert "--max_seconds" in result.detail


def test_temporary_files_of_killed_build_are_removed(tmp_path):
    (tmp_path / "a").mkdir()
    _slideshow(tmp_path / "a")
    options = IngestOptions(MediaOptions(audio=False))
    catalog = CATALOGS["folder"](Source(str(tmp_path)))
    plan = build_plan.make_plan(str(tmp_path), "toy", catalog, options)
    waiting = tmp_path / "out" / ".build" / "waiting"
    waiting.mkdir(parents=True)
    (waiting / "left").touch()
    with builder.start(plan, str(tmp_path / "out")):
        assert not list(waiting.iterdir())
