"""Hostile records of a few bytes are refused in one sentence, before they cost memory or time."""

import dataclasses
import struct
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import simplejpeg
import toy_shards
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import UserError
from data_pipelines.format import (
    dmvr,
    record_schema,
    record_source,
    shard_index,
    shard_names,
    shards,
    tf_example,
    tfrecord,
)
from data_pipelines.format.record_schema import Record
from data_pipelines.read import clips, frame_cuts, pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

WHERE = "shard, record 5,"


@pytest.fixture
def frugal():
    """Fails a test that allocates more than 50 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def jpeg_that_claims(height: int, width: int) -> bytes:
    """A JPEG image of 16 x 24 pixels whose header states another size."""
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 24, 3), np.uint8)))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(jpeg)


def of_frames(*frames: bytes) -> Record:
    return dataclasses.replace(toy_shards.record(0), frames=frames)


def decode(record: Record, stored: int = 0) -> np.ndarray:
    """Decodes the first four frames; `stored` is the short side of the data set."""
    frames = clips.ClipFrames(record, 0, 4, 16, WHERE, stored)
    out = np.zeros((4, 16, 24, 3), np.uint8)
    frames.write([(frame_cuts.Cut(0, 4, (0, 0, 16, 24), (16, 24)), out)])
    return out


@pytest.mark.parametrize("stored", [0, 16])
@pytest.mark.parametrize(
    "size", [(30000, 30000), (65500, 65500), (65500, 1), (1, 65500), (16, 272), (8, 500)]
)
def test_excessive_sizes_are_refused_before_decoding(size, stored, frugal):
    height, width = size
    sentence = rf"{WHERE} has a frame .*states {width} x {height} pixels, beyond"
    bad = jpeg_that_claims(*size)
    with pytest.raises(UserError, match=sentence):
        decode(of_frames(bad, bad), stored)
    with pytest.raises(UserError, match=f"{WHERE} has a frame that can't be decoded"):
        decode(of_frames(toy_shards.record(0).frames[0], bad), stored)


def test_record_with_excessive_frames_is_named(tmp_path, frugal):
    for name, frame in (
        ("claims", jpeg_that_claims(30000, 30000)),
        ("holds", simplejpeg.encode_jpeg(np.zeros((200, 300, 3), np.uint8))),
    ):
        records = [toy_shards.record(0), of_frames(*[frame] * 10)]
        dataset = open_dataset(
            toy_shards.CONFIG, toy_shards.write(tmp_path / name, records), "train"
        )
        sentence = "00001-of-00002, record 0, has a frame .* beyond short side 16 and sides of 16"
        for batches in (pipeline.train_batches, pipeline.eval_batches, pipeline.augmented_batches):
            with pytest.raises(UserError, match=sentence):
                next(batches(toy_shards.CONFIG, dataset))


def test_frames_of_dmvr_shards_are_bounded(tmp_path, frugal):
    config = toy_shards.config(short_side=16)

    def record(frame):
        example = tf_example_pb2.SequenceExample()
        frames = example.feature_lists.feature_list["image/encoded"]
        for _ in range(8):
            frames.feature.add().bytes_list.value.append(frame)
        example.context.feature["image/frame_rate"].float_list.value.append(8.0)
        return example.SerializeToString()

    large = simplejpeg.encode_jpeg(np.full((720, 1280, 3), 90, np.uint8))
    for split, frame in (("train", large), ("test", jpeg_that_claims(30000, 30000))):
        shards.write_shard(str(tmp_path / f"{split}-00000-of-00001"), [record(frame)] * 4)
    train, test = (open_dataset(config, str(tmp_path), split) for split in ("train", "test"))
    batch = next(pipeline.eval_batches(config, train, modalities=("video",)))
    assert batch["video"]["global"]["frames"].shape == (4, 4, 16, 16, 3)
    with pytest.raises(UserError, match=r"record 0, has a frame .* beyond 8,388,608 pixels"):
        next(pipeline.eval_batches(config, test, modalities=("video",)))


def test_jpeg_of_many_scans_is_refused(frugal):
    """Each scan costs a pass over all pixels, and may have only ten bytes."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert decode(of_frames(*[jpeg] * 4), 16).any()  # usual encoders write few scans
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(UserError, match=f"{WHERE} has a frame .*10[0-9]+ scans, more than 32"):
        decode(of_frames(jpeg[:-2] + scan * 1000 + jpeg[-2:]), 16)


@pytest.mark.parametrize("flag", [cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR])
@pytest.mark.parametrize("progressive", [0, 1])
def test_gray_and_progressive_images_are_read(flag, progressive):
    pixels = np.full((16, 24) if flag == cv2.IMREAD_GRAYSCALE else (16, 24, 3), 90, np.uint8)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    np.testing.assert_allclose(decode(of_frames(*[jpeg] * 4), 16), 90, atol=1)


GOOD = toy_shards.record(1, frames=2)


@pytest.mark.parametrize(
    "changes,sentence",
    [
        ({"frames": (b"",) * (record_schema.MAX_FRAMES + 1)}, "131,073 frames, more than 131,072"),
        ({"labels": (1,) * (record_schema.MAX_INTS + 1)}, "4,097 labels, more than 4,096"),
        ({"train_folds": (1,) * (record_schema.MAX_INTS + 1)}, "4,097 train_folds"),
        ({"id": "x" * (record_schema.MAX_TEXT + 1)}, "65,537 (bytes|characters)"),
        ({"label_text": "é" * record_schema.MAX_TEXT}, "131,072 bytes"),
        ({"end": float("inf")}, "lasts from 0.0 to inf"),
        ({"start": float("nan")}, "lasts from nan"),
        ({"log_mel": np.zeros((1, record_schema.MAX_COLUMNS + 1), np.uint16)}, "4,194,305 columns"),
        ({"waveform": np.zeros(1001, np.int16)}, "1,001 samples, more than 1,000"),
    ],
)
def test_record_beyond_bounds_is_neither_read_nor_written(monkeypatch, changes, sentence):
    monkeypatch.setattr(record_schema, "MAX_SAMPLES", 1000)
    record = dataclasses.replace(GOOD, **changes)
    if "label_text" not in changes:  # characters may have several bytes
        with pytest.raises(ValueError, match=sentence):
            record_schema.serialize(record)
    with monkeypatch.context() as patch:
        patch.setattr(record_schema, "size_fault", lambda record: "")
        data = record_schema.serialize(record)
    mels = 1 if "log_mel" in changes else 8
    with pytest.raises(UserError, match=rf"{WHERE} does not have the layout .*{sentence}"):
        record_schema.parse(data, mels, WHERE)


def test_bounds_are_inclusive():
    record = dataclasses.replace(
        GOOD, frames=(b"x",) * record_schema.MAX_FRAMES, labels=(1,) * record_schema.MAX_INTS,
        id="x" * record_schema.MAX_TEXT, label=-1,
    )  # fmt: skip
    found = record_schema.parse(record_schema.serialize(record), 8, WHERE)
    assert (len(found.frames), len(found.labels)) == (
        record_schema.MAX_FRAMES,
        record_schema.MAX_INTS,
    )


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _sized(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


MANY = 5000
HOSTILE = {
    "features without a name": _sized(1, b"\x0a\x00" * MANY),
    "fields of another number": _sized(1, b"\x7a\x00" * MANY),
    "messages": b"\x0a\x00" * MANY,
    "frames": _sized(1, _sized(1, _sized(1, b"frames") + _sized(2, _sized(1, b"\x0a\x00" * MANY)))),
    "labels": _sized(
        1, _sized(1, _sized(1, b"labels") + _sized(2, _sized(3, _sized(1, b"\x01" * MANY))))
    ),
    "labels not packed": _sized(
        1, _sized(1, _sized(1, b"labels") + _sized(2, _sized(3, b"\x08\x01" * MANY)))
    ),
    "empty lists": _sized(1, _sized(1, _sized(1, b"labels") + _sized(2, b"\x1a\x00" * MANY))),
    "a long name": _sized(1, _sized(1, _sized(1, b"x" * MANY))),
}


@pytest.fixture
def budget(monkeypatch):
    """Lowers the budget, so that a few thousand fields exceed it."""
    monkeypatch.setattr(tf_example, "MAX_FIELDS", 4000)


@pytest.mark.parametrize("kind", HOSTILE)
def test_messages_of_many_fields_are_refused(kind, budget):
    good = tf_example_pb2.Example.FromString(record_schema.serialize(GOOD))
    for name in ("frames", "labels"):
        if name in kind:
            del good.features.feature[name]
    data = good.SerializeToString() + HOSTILE[kind]
    with pytest.raises(UserError, match=rf"{WHERE} does not have the layout .*(fields|a name of)"):
        record_schema.parse(data, 8, WHERE)


def test_millions_of_fields_take_seconds():
    feature = tf_example.Feature(memoryview(_sized(1, b"\x0a\x00" * 2**24)))
    start = time.monotonic()
    with pytest.raises(tf_example.WireError, match=r"more than 1,048,576 fields"):
        feature.bytes_list()
    assert time.monotonic() - start < 20  # 0.5 on an idle machine


@pytest.mark.parametrize("name", ["image/encoded", "image/timestamp", "WAVEFORM/feature/floats"])
def test_sequences_of_many_steps_are_refused(name, budget):
    hostile = _sized(1, name.encode()) + _sized(2, b"\x0a\x00" * MANY)
    frame = _sized(1, _sized(1, _sized(1, b"a frame")))
    data = _sized(2, _sized(1, _sized(1, b"image/encoded") + _sized(2, frame)) + _sized(1, hostile))
    with pytest.raises(
        UserError, match=rf"{WHERE} is not a valid SequenceExample \(more than .* fields"
    ):
        dmvr.DmvrParser(Config())(data, WHERE)


@pytest.mark.parametrize(
    "micros,rate,sentence",
    [
        ([0, 90_000_000_000], None, "has a length of 180000 s"),
        ([0, 40_000_000_000], None, "has a length of 80000 s"),
        ([-(2**63), 2**63 - 1], None, "has a length of .* by its time stamps"),
        ([2**63 - 1, -(2**63)], None, "has a length of -.* by its time stamps"),
        (None, float("nan"), "has a length of nan"),
        (None, 1e-30, "has a length of 2e"),
        (None, -1.0, "has a length of -2"),
    ],
)
def test_sequences_with_excessive_length_are_refused(micros, rate, sentence, frugal):
    example = tf_example_pb2.SequenceExample()
    for i in range(2):
        lists = example.feature_lists.feature_list
        lists["image/encoded"].feature.add().bytes_list.value.append(GOOD.frames[i])
        if micros:
            lists["image/timestamp"].feature.add().int64_list.value.append(micros[i])
    if rate:
        example.context.feature["image/frame_rate"].float_list.value.append(rate)
    with pytest.raises(UserError, match=rf"{WHERE} {sentence}"):
        dmvr.DmvrParser(Config())(example.SerializeToString(), WHERE)


@pytest.mark.parametrize("length", [record_schema.MAX_RECORD_BYTES + 1, 2**31, 2**40, 2**64 - 1])
@pytest.mark.parametrize("room", [0, 2**31 + 2**20])
def test_length_of_record_is_bounded_before_it_is_read(tmp_path, length, room, frugal):
    """The length has a valid checksum; what follows it is empty or sparse."""
    path = tmp_path / shard_names.shard_name("toy", "train", 0, 1)
    header = struct.pack("<Q", length)
    with path.open("wb") as file:
        file.write(header + tfrecord.FOOTER.pack(tfrecord.masked_crc(header)) + bytes(100))
        if room:
            file.truncate(room)
    with pytest.raises(UserError, match=r"00000-of-00001 states .* bytes for record 0, more than"):
        record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))


def test_index_with_excessive_length_is_ignored(tmp_path, frugal):
    path = tmp_path / shard_names.shard_name("toy", "train", 0, 1)
    with path.open("wb") as file:
        file.truncate(2**31)
    entries = np.array([(2**31 - tfrecord.FRAMING, 0)], shard_index.ENTRY)
    (tmp_path / f"{path.name}.index").write_bytes(shard_index.pack(entries))
    with pytest.raises(UserError, match="damaged at record 0"):
        record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))


def test_read_of_index_is_bounded(tmp_path, frugal):
    shards.write_shard(str(tmp_path / shard_names.shard_name("toy", "train", 0, 1)), [b"one"])
    found = shard_names.find_shards(str(tmp_path), "train")
    with open(f"{next(iter(found))}.index", "ab") as file:
        file.truncate(2**33)
    assert record_source.TFRecordSource(found)[0] == b"one"


def test_budget_of_fields_is_per_message():
    feature = tf_example.parse_example(record_schema.serialize(GOOD))["frames"]
    for _ in range(100):
        assert len(feature.bytes_list()) == 2
