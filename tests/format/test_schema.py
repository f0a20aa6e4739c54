import dataclasses

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import UserError
from data_pipelines.format import record_schema


def _record(**changes) -> record_schema.Record:
    rng = np.random.default_rng(0)
    record = record_schema.Record(
        id="clip/ü 1",
        path="a/b.mp4",
        frames=(b"\xff\xd8one", b"\xff\xd8two"),
        log_mel=rng.integers(0, 65536, (5, 7), np.uint16),
        waveform=rng.integers(-(2**15), 2**15, 11, np.int16),
        label=3,
        label_text="playing drums",
        train_folds=(1, 3),
        test_folds=(2,),
        start=1.5,
        end=4.25,
    )
    return dataclasses.replace(record, **changes)


def _assert_equal(a: record_schema.Record, b: record_schema.Record) -> None:
    for field in dataclasses.fields(record_schema.Record):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        else:
            assert x == y, field.name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frames": (), "label": -1, "labels": (0, 4)},
        {"log_mel": np.zeros((5, 0), np.uint16), "waveform": np.zeros(0, np.int16)},
    ],
    ids=["both", "audio only, multi-label", "video only"],
)
def test_record_round_trip(changes):
    record = _record(**changes)
    _assert_equal(record_schema.parse(record_schema.serialize(record), mels=5), record)


def test_fixed_point_error_is_half_step():
    log_mel = np.linspace(record_schema.LOG_MEL_FLOOR, 15.99, 200_001).astype(np.float32)
    error = record_schema.decode_log_mel(record_schema.encode_log_mel(log_mel)) - log_mel
    assert np.abs(error).max() <= 2**-12 * (1 + 1e-5)


def test_fixed_point_clips_and_is_stable():
    assert record_schema.encode_log_mel(np.array([-50.0, 50.0])).tolist() == [0, 65535]
    codes = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(
        record_schema.encode_log_mel(record_schema.decode_log_mel(codes)), codes
    )


@pytest.mark.parametrize("data", [b"", b"\x0a\xff", b"not an example"])
def test_bytes_that_are_no_record_are_refused(data):
    with pytest.raises(UserError, match="layout"):
        record_schema.parse(data, mels=5)


def test_spectrogram_of_other_bands_is_refused():
    with pytest.raises(UserError, match="layout"):
        record_schema.parse(record_schema.serialize(_record()), mels=80)


def test_missing_field_is_refused():
    example = tf_example_pb2.Example.FromString(record_schema.serialize(_record()))
    del example.features.feature["id"]
    with pytest.raises(UserError, match="lacks 'id'"):
        record_schema.parse(example.SerializeToString(), mels=5)


def test_equals_messages_of_tensorflow_datasets():
    data = record_schema.serialize(_record())
    theirs = tf_example_pb2.Example.FromString(data)
    assert list(theirs.features.feature["frames"].bytes_list.value) == list(_record().frames)
    assert theirs.features.feature["label"].int64_list.value[0] == 3
    _assert_equal(record_schema.parse(theirs.SerializeToString(), mels=5), _record())
