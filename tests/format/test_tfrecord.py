import gzip
import hashlib
import os
import pickle
import re
import struct
import time
from concurrent import futures

import fsspec
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.format import record_source, shard_index, shard_names, shards, storage, tfrecord

RECORDS = [bytes([i]) * n for i, n in enumerate([5, 0, 1000, 17, 3])]


def _entries(records) -> np.ndarray:
    """The index entries of these records."""
    values = [(len(record), tfrecord.masked_crc(record)) for record in records]
    return np.array(values, shard_index.ENTRY)


def _write(folder, records=RECORDS, count=2) -> dict[str, int]:
    storage.make_folder(str(folder))
    for i in range(count):
        name = shard_names.shard_name("toy", "train", i, count)
        shards.write_shard(storage.join(str(folder), name), records[i::count])
    return shard_names.find_shards(str(folder), "train")


def test_written_bytes_are_known():
    # The CRC-32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4).
    crc = 0x8A9136AA
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert tfrecord.masked_crc(bytes(32)) == masked
    header, data, footer = tfrecord.frame(bytes(32))
    assert header[:8] == struct.pack("<Q", 32)
    assert footer == struct.pack("<I", masked)
    assert data == bytes(32)


def test_reads_what_was_written(tmp_path):
    source = record_source.TFRecordSource(_write(tmp_path))
    assert source.shard_lengths == [3, 2]
    assert [source[i] for i in range(len(source))] == RECORDS[0::2] + RECORDS[1::2]
    with pytest.raises(IndexError):
        source[5]


def test_no_temporary_files_are_left(tmp_path):
    found = _write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        os.path.basename(p) + end for p in found for end in ("", ".index")
    )


def test_interrupted_writer_leaves_nothing(tmp_path):
    def records():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_shard(str(tmp_path / "shard"), records())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut", "stale", "empty", "layout 1"])
def test_invalid_index_is_ignored(tmp_path, damage):
    found = _write(tmp_path)
    index = tmp_path / (os.path.basename(next(iter(found))) + ".index")
    content = bytearray(index.read_bytes())
    if damage == "missing":
        index.unlink()
    elif damage == "flipped":
        content[30] ^= 1
        index.write_bytes(content)
    elif damage == "cut":
        index.write_bytes(content[:-9])
    elif damage == "stale":
        index.write_bytes(shard_index.pack(_entries([b"a", b"bb", b"ccc"])))
    elif damage == "layout 1":
        lengths = [len(record) for record in RECORDS[0::2]]
        size = sum(lengths) + tfrecord.FRAMING * len(lengths)
        body = b"XKDINDX1" + struct.pack("<5Q", size, 3, *lengths)
        index.write_bytes(body + struct.pack("<I", tfrecord.masked_crc(body)))
    else:
        index.write_bytes(b"")
    whole = record_source.TFRecordSource(_write(tmp_path / "whole"))
    source = record_source.TFRecordSource(found)
    assert source.digest == whole.digest
    assert [source[i] for i in range(5)] == RECORDS[0::2] + RECORDS[1::2]


@pytest.mark.parametrize(
    "others,what",
    [
        (RECORDS[::-1], "length"),
        ([bytes(len(record)) for record in RECORDS], "checksum"),
    ],
)
def test_index_of_another_shard_of_same_size_is_refused(tmp_path, others, what):
    found = _write(tmp_path, count=1)
    index = tmp_path / (os.path.basename(next(iter(found))) + ".index")
    index.write_bytes(shard_index.pack(_entries(others)))
    source = record_source.TFRecordSource(found)
    with pytest.raises(UserError, match=rf"another {what}\).*: delete the index"):
        [source[i] for i in range(5)]


def test_memory_of_records_in_use_is_not_reused(tmp_path):
    """Records are read into memory that is reused when nothing refers to it."""
    source = record_source.TFRecordSource(_write(tmp_path))
    kept = [memoryview(source[i])[:1] for i in range(5)]
    for _ in range(3):
        [source[i] for i in range(5)]
    assert [bytes(part) for part in kept] == [r[:1] for r in RECORDS[0::2] + RECORDS[1::2]]
    assert all(part.readonly for part in kept)


def test_digest_is_that_of_runs_of_every_version(tmp_path):
    """Existing runs store this digest: with another one they would be refused."""
    source = record_source.TFRecordSource(_write(tmp_path))
    in_order = RECORDS[0::2] + RECORDS[1::2]
    rows = b"".join(struct.pack("<II", len(r), tfrecord.masked_crc(r)) for r in in_order)
    assert source.digest == hashlib.blake2b(rows, digest_size=16).hexdigest()


def test_digest_depends_on_records_and_order(tmp_path):
    """It does not depend on the folder, on indexes or on the number of records per shard."""
    plain = record_source.TFRecordSource(_write(tmp_path / "a")).digest
    assert re.fullmatch("[0-9a-f]{32}", plain)
    assert record_source.TFRecordSource(_write(tmp_path / "b" / "c")).digest == plain
    assert record_source.TFRecordSource(_write("memory://digest")).digest == plain
    scanned = _write(tmp_path / "d")
    for path in scanned:
        os.remove(path + ".index")
    assert record_source.TFRecordSource(scanned).digest == plain
    assert record_source.TFRecordSource(scanned, verify=False).digest == plain


@pytest.mark.parametrize(
    "records",
    [
        [b"\1" * 5, *RECORDS[1:]],  # the same length
        [*RECORDS[:4], b"\4\4\5"],  # the last byte of the last record
        [RECORDS[2], RECORDS[1], RECORDS[0], *RECORDS[3:]],
        RECORDS[:4],
        [*RECORDS, b""],
        [RECORDS[0] + RECORDS[2], b"", *RECORDS[3:], RECORDS[1]],
    ],
)
def test_changed_records_change_digest(tmp_path, records):
    plain = record_source.TFRecordSource(_write(tmp_path / "a")).digest
    assert record_source.TFRecordSource(_write(tmp_path / "b", records)).digest != plain


def test_pickles_without_descriptors(tmp_path):
    source = record_source.TFRecordSource(_write(tmp_path))
    first = source[0]
    assert pickle.loads(pickle.dumps(source))[0] == first


def test_threads_read_the_same_records(tmp_path):
    source = record_source.TFRecordSource(_write(tmp_path))
    with futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(source.__getitem__, [i % 5 for i in range(2000)]))
    assert read == [source[i % 5] for i in range(2000)]


def test_reads_from_url():
    folder = "memory://toy"
    source = record_source.TFRecordSource(_write(folder))
    assert pickle.loads(pickle.dumps(source))[1] == RECORDS[2]
    filesystem = fsspec.filesystem("memory")
    for name in filesystem.find(folder):
        if name.endswith(".index"):
            filesystem.rm(name)
    scanned = record_source.TFRecordSource(shard_names.find_shards(folder, "train"))
    assert [scanned[i] for i in range(5)] == [source[i] for i in range(5)]


def test_every_flipped_bit_is_detected(tmp_path):
    (path, size), *_ = _write(tmp_path, [b"some data", b"more"], 1).items()
    content = storage.read(path)
    for bit in range(8 * size):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with open(path, "wb") as file:
            file.write(damaged)
        source = record_source.TFRecordSource({path: size})
        with pytest.raises(UserError, match=r"train\.tfrecord-00000-of-00001 .*record"):
            [source[0], source[1]]


@pytest.mark.parametrize("indexed", [True, False])
def test_truncated_shard_is_detected(tmp_path, indexed):
    ((path, size),) = _write(tmp_path, count=1).items()
    with open(path, "r+b") as file:
        file.truncate(size - 1)
    if not indexed:
        os.remove(path + ".index")
    with pytest.raises(UserError, match=r"cut off in record 4"):
        record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))


def _overwrite(path, content):
    with open(path, "r+b") as file:
        file.write(content)


def _rename_over(path, content):
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.replace(path + ".new", path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path, content: os.truncate(path, len(content) - 1),
        lambda path, content: os.remove(path),
        _overwrite,
        _rename_over,
    ],
    ids=["truncated", "removed", "overwritten", "renamed over"],
)
def test_changed_shard_is_detected(tmp_path, change):
    ((path, size),) = _write(tmp_path, count=1).items()
    os.utime(path, (0, 0))  # set the time, as the clock of the file system is coarse
    opened = record_source.TFRecordSource({path: size})
    opened[0]
    unopened = pickle.loads(pickle.dumps(opened))
    # Other records of the same lengths, with valid checksums.
    other = b"".join(b"".join(tfrecord.frame(bytes(len(record)))) for record in RECORDS)
    change(path, other)
    for source in (opened, unopened):
        with pytest.raises(UserError, match=r"replaced or removed|can't be opened .No such file"):
            source[4]


def test_changed_remote_shard_is_detected():
    folder = "memory://changing"
    ((path, size),) = _write(folder, count=1).items()
    source = record_source.TFRecordSource({path: size})
    assert source[2] == RECORDS[2]
    _write(folder, [b"another", b"data set"], count=1)
    with pytest.raises(UserError, match="replaced or removed"):
        source[2]
    fsspec.filesystem("memory").rm(path)
    with pytest.raises(UserError, match="was removed while in use"):
        source[2]


def test_compressed_shard_is_named_as_such(tmp_path):
    ((path, _),) = _write(tmp_path, count=1).items()
    content = gzip.compress(storage.read(path))
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="gzip -d"):
        record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))


def test_text_file_is_refused(tmp_path):
    path = tmp_path / shard_names.shard_name("toy", "train", 0, 1)
    path.write_text("hello, this is text")
    with pytest.raises(UserError, match="not a TFRecord file"):
        record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))


def test_missing_shards_are_named(tmp_path):
    found = _write(tmp_path, count=4)
    os.remove(list(found)[2])
    with pytest.raises(UserError, match=r"toy-train\.tfrecord-00002-of-00004"):
        shard_names.find_shards(str(tmp_path), "train")
    with pytest.raises(UserError, match=r"'test': it has train"):
        shard_names.find_shards(str(tmp_path), "test")
    with pytest.raises(UserError, match="not a folder"):
        shard_names.find_shards(str(tmp_path / "absent"), "train")


def test_more_than_99_999_shards_are_found(tmp_path, monkeypatch):
    """Their numbers have six digits; shards are in the order of numbers, not of names."""
    count = 100_002
    names = {shard_names.shard_name("toy", "train", i, count): i for i in reversed(range(count))}
    monkeypatch.setattr(storage, "sizes", lambda directory: names)
    found = shard_names.find_shards("shards", "train")
    assert list(found.values()) == list(range(count))
    assert list(found)[-1] == "shards/toy-train.tfrecord-100001-of-100002"


def test_indexes_of_many_remote_shards_are_in_order():
    """Several are read at a time; the first damaged shard in order is the one that is named."""
    folder = "memory://many"
    found = _write(folder, RECORDS * 12, count=80)
    local = [found[path] for path in found]
    source = record_source.TFRecordSource(found)
    assert source.paths == list(found)
    assert [
        sum(len(source[r]) + tfrecord.FRAMING for r in source.records_of(shard))
        for shard in range(80)
    ] == local
    for number in (7, 3, 60):
        path = list(found)[number]
        for name in (path, path + shard_index.SUFFIX):
            fsspec.filesystem("memory").pipe_file(name, bytes(found[path]))
    with pytest.raises(UserError, match="00003-of-00080"):
        record_source.TFRecordSource(found)


def test_shards_of_two_builds_are_refused(tmp_path):
    _write(tmp_path, count=4)
    with pytest.raises(UserError, match="several builds"):
        _write(tmp_path, count=2)


def test_unknown_scheme_is_refused():
    with pytest.raises(UserError, match="nonsense"):
        shard_names.find_shards("nonsense://bucket/x", "train")


def test_hundred_thousand_records_open_fast(tmp_path):
    ((path, size),) = _write(tmp_path, [b"x"] * 100_000, 1).items()
    start = time.process_time()
    assert len(record_source.TFRecordSource({path: size})) == 100_000
    indexed = time.process_time() - start
    os.remove(path + ".index")
    start = time.process_time()
    assert len(record_source.TFRecordSource({path: size})) == 100_000
    assert indexed < 0.2
    assert time.process_time() - start < 2.0
