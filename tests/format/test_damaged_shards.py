"""Random damage: a record is read unchanged, or its shard is reported as damaged."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import toy_shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import UserError
from data_pipelines.format import (
    dmvr,
    record_schema,
    record_source,
    shard_index,
    shard_names,
    shards,
    tfrecord,
)
from data_pipelines.read import pipeline
from data_pipelines.read.clips import ClipFrames
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

RECORDS = [bytes([i] * n) for i, n in enumerate([3, 0, 40, 7, 120])] + [b"\x00" * 16]
VARIANTS = 10  # of each example; hypothesis is slower than what it tests
THOUSANDS = settings(
    max_examples=200, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
seeds = st.integers(0, 2**32 - 1)
KINDS = ("flip", "cut", "insert", "overwrite", "drop", "repeat")


def _variants(content: bytes, seed: int) -> Iterator[bytes]:
    """Yields damaged copies: each has one to three changes."""
    rng = np.random.default_rng(seed)
    for _ in range(VARIANTS):
        changes = [
            (rng.random(), KINDS[rng.integers(len(KINDS))], rng.bytes(int(rng.integers(1, 21))))
            for _ in range(rng.integers(1, 4))
        ]
        yield _apply(content, changes)


def _apply(content: bytes, changes) -> bytes:
    for fraction, kind, new in changes:
        at = min(int(fraction * len(content)), max(len(content) - 1, 0))
        if kind == "flip":
            bit = 1 << new[0] % 8
            content = (
                content[:at] + bytes([(content[at : at + 1] or b"\0")[0] ^ bit]) + content[at + 1 :]
            )
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + new + content[at:]
        elif kind == "overwrite":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "drop":
            content = content[:at] + content[at + len(new) :]
        else:
            content = content[:at] + content[max(at - 20, 0) : at] + content[at:]
    return content


def _refusal(path: str, call, *args):
    """Returns the result of a call, or None if its error names the path."""
    try:
        return call(*args)
    except UserError as error:
        if path not in str(error):
            raise
        return None


def _read_all(path: str) -> list[bytes]:
    """Returns every record that can be read."""
    source = _refusal(path, record_source.TFRecordSource, {path: os.path.getsize(path)})
    read = [_refusal(path, source.__getitem__, i) for i in range(len(source or ()))]
    return [bytes(record) for record in read if record is not None]


SHARD = b"".join(part for record in RECORDS for part in tfrecord.frame(record))
ENTRIES = [(len(record), tfrecord.masked_crc(record)) for record in RECORDS]
INDEX = shard_index.pack(np.array(ENTRIES, shard_index.ENTRY))


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("fuzz") / "shard"


@THOUSANDS
@given(seed=seeds, indexed=st.booleans())
def test_damaged_shard_is_reported_or_read_unchanged(shard, seed, indexed):
    pathlib.Path(f"{shard}.index").write_bytes(INDEX if indexed else b"")
    for content in _variants(SHARD, seed):
        shard.write_bytes(content)
        assert set(_read_all(str(shard))) <= set(RECORDS)


@THOUSANDS
@given(seed=seeds)
def test_damaged_index_never_changes_records(shard, seed):
    shard.write_bytes(SHARD)
    for content in _variants(INDEX, seed):
        pathlib.Path(f"{shard}.index").write_bytes(content)
        assert _read_all(str(shard)) == RECORDS


@settings(THOUSANDS, max_examples=50)
@given(seed=seeds)
def test_wrong_index_with_valid_checksum_never_changes_records(shard, seed):
    """The index is ignored, a record is named as damaged, or the records are unchanged."""
    shard.write_bytes(SHARD)
    for content in _variants(INDEX[: -tfrecord.FOOTER.size], seed):
        crc = tfrecord.FOOTER.pack(tfrecord.masked_crc(content))
        pathlib.Path(f"{shard}.index").write_bytes(content + crc)
        assert set(_read_all(str(shard))) <= set(RECORDS)


@THOUSANDS
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_or_ignored(shard, content):
    shard.write_bytes(content)
    pathlib.Path(f"{shard}.index").write_bytes(content)
    assert len(_read_all(str(shard))) <= len(content) // tfrecord.FRAMING


GOOD = record_schema.serialize(toy_shards.record(1, frames=3))


@THOUSANDS
@given(seed=seeds)
def test_wrong_records_with_valid_checksum_are_refused_or_parsed(seed):
    """Records damaged before their checksum was computed are refused, or parsed."""
    where = "shard, record 0,"
    for content in _variants(GOOD, seed):
        record = _refusal(where, record_schema.parse, content, 8, where)
        if record:
            _refusal(where, lambda record: ClipFrames(record, 0, 4, 16, where).write([]), record)


@settings(THOUSANDS, max_examples=10)
@given(seed=seeds)
def test_wrong_data_set_with_valid_checksum_is_refused_or_read(tmp_path_factory, seed):
    """All checksums are valid, and index and description match the damaged record."""
    folder = str(tmp_path_factory.getbasetemp() / "wrong_writer")
    if not os.path.isdir(folder):
        metadata = dataclasses.replace(toy_shards.METADATA, folds=2)
        toy_shards.write(folder, [toy_shards.record(i) for i in range(2)], metadata)
    for content in _variants(record_schema.serialize(toy_shards.record(1, frames=3)), seed):
        name = shard_names.shard_name("toy", "train", 1, 2)
        shards.write_shard(f"{folder}/{name}", [content])
        _refusal(folder, _use, folder)


def _use(folder: str) -> None:
    dataset = open_dataset(toy_shards.CONFIG, folder, "train")
    toy_shards.index(dataset)
    next(pipeline.eval_batches(toy_shards.CONFIG, dataset))


def _sequence_example() -> bytes:
    example = tf_example_pb2.SequenceExample()
    lists = example.feature_lists.feature_list
    for i, frame in enumerate(toy_shards.record(1, frames=6).frames):
        lists["image/encoded"].feature.add().bytes_list.value.append(frame)
        lists["image/timestamp"].feature.add().int64_list.value.append(125_000 * i)
    samples = np.sin(np.arange(12000)).astype(np.float32)
    lists["WAVEFORM/feature/floats"].feature.add().float_list.value.extend(samples)
    example.context.feature["clip/label/index"].int64_list.value.append(3)
    example.context.feature["WAVEFORM/feature/sample_rate"].float_list.value.append(16000.0)
    return example.SerializeToString()


SEQUENCE = _sequence_example()


@settings(THOUSANDS, max_examples=20)
@given(seed=seeds)
def test_wrong_sequence_examples_are_refused_or_read(seed):
    where = "shard, record 0,"
    for content in _variants(SEQUENCE, seed):
        _refusal(where, dmvr.DmvrParser(Config()), content, where)
