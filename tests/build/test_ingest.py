import dataclasses
import errno
import os
from unittest.mock import Mock

import media_files
import numpy as np
import pytest
from failing_calls import system_error

from data_pipelines.build import media
from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.build.ingest import UNREACHABLE, IngestOptions, ingest
from data_pipelines.build.media import MediaError, MediaOptions
from data_pipelines.format import log_mel, record_schema, storage

ITEM = Item("one", "a/one.mkv", label=2, label_text="c", train_folds=(1, 2), test_folds=(3,))


def _write(folder, seconds: float = 2.0) -> str:
    (folder / "a").mkdir(exist_ok=True)
    frames = media_files.gray_frames([50] * round(30 * seconds))
    sound = media_files.tone(seconds, 44100)
    return media_files.write(folder / ITEM.path, frames, sound=sound)


def _ingest(folder, item=ITEM, alive=lambda: None, **options):
    return ingest(item, alive, directory=str(folder), options=IngestOptions(**options))


def test_record_has_decoded_content(tmp_path):
    path = _write(tmp_path)
    (data,) = _ingest(tmp_path, waveform=True).records
    record = record_schema.parse(data, 80)
    decoded = media.decode(path, MediaOptions())
    assert record.frames == decoded.frames
    np.testing.assert_allclose(record.waveform / 32768, decoded.waveform, atol=2e-5)
    expected = log_mel.log_mel(decoded.waveform)
    np.testing.assert_allclose(record_schema.decode_log_mel(record.log_mel), expected, atol=2**-11)
    assert (record.id, record.path, record.label, record.label_text) == ("one", ITEM.path, 2, "c")
    assert (record.train_folds, record.test_folds) == ((1, 2), (3,))
    assert (record.start, record.end) == (0, 2)


def test_waveform_is_stored_only_on_request(tmp_path):
    _write(tmp_path)
    assert not record_schema.parse(_ingest(tmp_path).records[0], 80).waveform.size


def test_long_file_becomes_several_records(tmp_path):
    _write(tmp_path, 3.2)
    calls: list[int] = []
    result = _ingest(tmp_path, alive=lambda: calls.append(1), max_seconds=1.5)
    records = [record_schema.parse(data, 80) for data in result.records]
    assert [r.id for r in records] == ["one", "one#1"]  # 0.2 s are too short for a third record
    assert [(r.start, r.end) for r in records] == [(0, 1.5), (1.5, 3)]
    assert [len(r.frames) for r in records] == [12, 12]
    assert len(calls) == 2


@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_file_of_n_times_max_seconds_becomes_n_records(tmp_path, seconds):
    _write(tmp_path, seconds)
    result = _ingest(tmp_path, max_seconds=1.5)
    assert len(result.records) == round(seconds / 1.5)


def test_record_of_a_segment_has_its_times_and_frames(tmp_path):
    _write(tmp_path, 3.0)
    item = dataclasses.replace(ITEM, start=1.0, end=2.0)
    record = record_schema.parse(_ingest(tmp_path, item).records[0], 80)
    assert (record.start, record.end, len(record.frames)) == (1, 2, 8)


def test_bad_file_is_left_out_with_its_reason(tmp_path):
    assert _ingest(tmp_path).reason == "missing"
    (tmp_path / "a").mkdir()
    (tmp_path / ITEM.path).write_bytes(b"")
    result = _ingest(tmp_path)
    assert (result.records, result.reason, result.detail) == ((), "unreadable", "it is empty")


def test_unknown_exception_of_decoder_loses_only_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "decode", Mock(side_effect=ZeroDivisionError("inside")))
    result = _ingest(tmp_path)
    assert (result.reason, result.detail) == ("failed", "ZeroDivisionError: inside")


def test_unreachable_file_system_is_not_a_fault_of_the_file(tmp_path, monkeypatch):
    _write(tmp_path)
    monkeypatch.setattr(os.path, "getsize", system_error(errno.ESTALE))
    result = _ingest(tmp_path)
    assert (result.records, result.reason) == ((), UNREACHABLE)
    assert "Stale file handle" in result.detail


def test_files_of_removed_folder_are_unreachable(tmp_path):
    assert _ingest(tmp_path / "unmounted").reason == UNREACHABLE


def test_empty_segment_is_left_out_with_reason(tmp_path):
    _write(tmp_path)
    result = _ingest(tmp_path, dataclasses.replace(ITEM, start=1.0, end=1.0))
    assert (result.records, result.reason) == ((), "too short")


@pytest.mark.parametrize("keep", [False, True])
def test_damage_in_a_later_record_leaves_out_the_file_unless_kept(tmp_path, monkeypatch, keep):
    decode = media.decode

    def damaged_later(path, options, start, end):
        if start:
            raise MediaError(path, "damaged", "its video can't be decoded")
        return decode(path, options, start, end)

    _write(tmp_path, 3.0)
    monkeypatch.setattr(media, "decode", damaged_later)
    result = _ingest(tmp_path, max_seconds=1.5, media=MediaOptions(keep_damaged=keep))
    assert (len(result.records), result.reason) == ((1, "") if keep else (0, "damaged"))


def test_segment_of_sound_ends_at_requested_time(tmp_path):
    _write(tmp_path, 3.0)
    item = dataclasses.replace(ITEM, start=0.5, end=1.7)
    options = {"media": MediaOptions(video=False), "waveform": True}
    (data,) = _ingest(tmp_path, item, **options).records
    record = record_schema.parse(data, 80)
    assert len(record.waveform) == 19200
    assert (record.start, record.end) == pytest.approx((0.5, 1.7))


def test_file_at_a_url_has_the_records_of_a_local_one(tmp_path):
    path = _write(tmp_path)
    url = "memory://ingest"
    with storage.writer(f"{url}/{ITEM.path}") as file:
        file.write(storage.read(path))
    assert _ingest(url).records == _ingest(tmp_path).records
    absent = dataclasses.replace(ITEM, path="a/absent.mkv")
    assert _ingest(url, absent).reason == "missing"


def test_record_that_readers_refuse_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(record_schema, "MAX_FRAMES", 15)
    _write(tmp_path)
    result = _ingest(tmp_path)
    assert not result.records
    assert "it has 16 frames, more than 15: cut it into shorter records" in result.detail
    assert len(_ingest(tmp_path, max_seconds=1.0).records) == 2
