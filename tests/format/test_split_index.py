"""The index of a split, by which shards are opened."""

import errno
import os
import pickle
import random
import tracemalloc
from concurrent import futures

import numpy as np
import pytest
import toy_shards

from data_pipelines import split_indexes
from data_pipelines.errors import UserError
from data_pipelines.format import record_source, shard_names, shards, split_index, storage
from data_pipelines.read.dataset import open_dataset


@pytest.fixture
def folder(tmp_path) -> str:
    records = list(map(toy_shards.record, range(6)))
    return toy_shards.write(tmp_path / "shards", records, more=records[:3])


def opened(folder, split="train"):
    return open_dataset(toy_shards.CONFIG, folder, split)


def remove_indexes(folder):
    for name in os.listdir(folder):
        if name.endswith(".index"):
            os.remove(f"{folder}/{name}")


@pytest.mark.parametrize("split", ["train", "more", "train+more"])
def test_split_is_the_same_with_and_without(folder, split):
    with_index = opened(folder, split)
    remove_indexes(folder)
    without = opened(folder, split)
    assert without.digest == with_index.digest
    assert len(with_index) == len(without)
    for record in range(len(without)):
        assert with_index.source[record] == without.source[record]
        assert with_index.source.name(record) == without.source.name(record)


@pytest.mark.parametrize("split,records", [("train", 6), ("train+more", 9)])
def test_opening_reads_no_shard_and_no_index_of_one(folder, split, records):
    digest = opened(folder, split).digest
    for part in split.split("+"):
        for path, size in shard_names.find_shards(folder, part).items():
            os.remove(path + ".index")
            storage.write(path, bytes(size))
    dataset = opened(folder, split)
    assert (len(dataset), dataset.digest) == (records, digest)
    for record in (0, records - 1):
        with pytest.raises(UserError, match=f"{part if record else 'train'}.tfrecord-0000"):
            dataset[record]


@pytest.mark.parametrize("indexed", ["", "train", "more"])
@pytest.mark.parametrize("split", ["train", "train+more", "more+train"])
def test_index_of_each_shard_is_read_once(folder, monkeypatch, split, indexed):
    """When a split without an index is opened, or with the first record of the shard."""
    parts = split.split("+")
    for part in {*parts} - {indexed}:
        os.remove(split_index.path_of(folder, "toy", part))
    read, done = storage.read, list[str]()

    def counted(path, *rest):
        done.append(path)
        return read(path, *rest)

    monkeypatch.setattr(storage, "read", counted)
    dataset = opened(folder, split)
    found = [dataset[record].id for record in range(len(dataset))]
    paths = [path for part in parts for path in shard_names.find_shards(folder, part)]
    assert sorted(p for p in done if ".tfrecord" in p) == sorted(f"{p}.index" for p in paths)
    alone = [opened(folder, part) for part in parts]
    assert found == [one[i].id for one in alone for i in range(len(one))]


def test_digest_of_joined_splits_depends_on_their_records_and_order(folder, tmp_path):
    splits = ("train", "more", "train+more", "more+train")
    digests = {opened(folder, split).digest for split in splits}
    assert len(digests) == 4
    records = list(map(toy_shards.record, range(6)))
    other = toy_shards.write(tmp_path / "other", records, more=records[1:4])
    assert opened(other, "train+more").digest not in digests
    assert opened(other).digest == opened(folder).digest


@pytest.mark.parametrize("scheme", ["", "memory://described"])
def test_changed_shard_of_the_same_size_is_found(tmp_path, scheme):
    records = list(map(toy_shards.record, range(6)))
    folder = toy_shards.write(scheme or tmp_path / "a", records, more=records[:3])
    path = next(iter(shard_names.find_shards(folder, "train")))
    source = record_source.TFRecordSource({path: storage.sizes(folder)[path.rsplit("/", 1)[1]]})
    last = bytes([source[0][-1] ^ 1])
    changed = [bytes(source[0])[:-1] + last, *(bytes(source[i]) for i in (1, 2))]
    shards.write_shard(path, changed)
    for dataset, first in ((opened(folder), 0), (opened(folder, "more+train"), 3)):
        with pytest.raises(UserError, match=r"not the shard that .*/toy-train\.index describes"):
            dataset.source[first]
        assert len(dataset.source[first + 3]) > 0  # of another shard


@pytest.mark.parametrize("damage", ["removed", "flipped", "cut", "empty", "larger", "other size"])
def test_index_of_other_shards_is_not_used(folder, damage):
    expected = opened(folder).digest
    path = split_index.path_of(folder, "toy", "train")
    content = bytearray(storage.read(path))
    if damage == "removed":
        os.remove(path)
    elif damage == "flipped":
        content[30] ^= 1
        storage.write(path, bytes(content))
    elif damage == "cut":
        storage.write(path, bytes(content[:-1]))
    elif damage == "empty":
        storage.write(path, b"")
    else:
        whole = split_index.unpack(bytes(content))
        found = np.concatenate([whole.shards, whole.shards[:1]])
        if damage == "other size":
            found = whole.shards.copy()
            found["size"][1] += 1
        storage.write(path, split_index.pack(split_index.SplitIndex(found, "00" * 16)))
    dataset = opened(folder)
    assert (dataset.digest, dataset.source.index_of(0)) == (expected, "")
    assert [dataset[i].id for i in range(6)] == [f"clip{i}" for i in (0, 2, 4, 1, 3, 5)]


def test_any_changed_byte_and_any_length_is_damage(folder):
    content = storage.read(split_index.path_of(folder, "toy", "train"))
    assert split_index.unpack(content).shards["records"].tolist() == [3, 3]
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 0x10
        assert split_index.unpack(bytes(changed)) is None
        assert split_index.unpack(content[:position]) is None
    assert split_index.unpack(content + b"\0") is None


@pytest.mark.parametrize("field,value", [("size", 2**63), ("records", 2**40), ("records", 2**63)])
def test_impossible_numbers_are_damage(folder, field, value):
    index = split_index.load(folder, "toy", "train", 2)
    found = index.shards.copy()
    found[field][0] = value
    content = split_index.pack(split_index.SplitIndex(found, index.digest))
    assert split_index.unpack(content) is None


def test_missing_shard_is_named_although_the_index_has_it(folder):
    os.remove(f"{folder}/toy-train.tfrecord-00001-of-00002")
    with pytest.raises(UserError, match=r"lacks 1 of 2 shards .*00001-of-00002"):
        opened(folder)


@pytest.fixture(params=[1, 40, 10**6])
def held(request, monkeypatch):
    """Room for the offsets of one shard, of two or three, or of all."""
    monkeypatch.setattr(record_source, "RECORDS_HELD", request.param)
    return request.param


def many(folder, count=16) -> tuple[dict[str, int], list[bytes]]:
    """Writes `count` shards, and returns them and their records in order."""
    storage.make_folder(str(folder))
    records = [bytes([shard]) * (shard + 1) * number for shard in range(count) for number in (1, 2)]
    for i in range(count):
        name = shard_names.shard_name("toy", "train", i, count)
        shards.write_shard(storage.join(str(folder), name), records[2 * i : 2 * i + 2])
    return shard_names.find_shards(str(folder), "train"), records


@pytest.mark.parametrize("folder", ["", "memory://held"])
def test_records_do_not_depend_on_the_offsets_that_are_held(tmp_path, held, folder):
    found, records = many(folder or tmp_path)
    order = random.Random(0).choices(range(len(records)), k=200)
    for index in (None, split_index.scan(found)):
        source = record_source.TFRecordSource(found, splits=[(len(found), index)])
        assert [bytes(source[i]) for i in order] == [records[i] for i in order]
        copied = pickle.loads(pickle.dumps(source))
        with futures.ThreadPoolExecutor(4) as pool:
            assert list(map(bytes, pool.map(copied.__getitem__, order))) == [
                records[i] for i in order
            ]


@pytest.mark.parametrize("folder", ["", "memory://replaced"])
def test_shard_that_was_replaced_before_its_offsets_are_read_is_refused(
    tmp_path, monkeypatch, folder
):
    """The new shard has the same size, so that a listing does not show the difference."""
    monkeypatch.setattr(record_source, "RECORDS_HELD", 1)
    found, records = many(folder or tmp_path)
    if not folder:
        for path in found:
            os.utime(path, (0, 0))
    source = record_source.TFRecordSource(found)
    shards.write_shard(list(found)[3], [b"other data"[:8], bytes(4)])
    with pytest.raises(UserError, match="00003-of-00016 was replaced or removed"):
        source[6]
    storage.remove(list(found)[5])
    storage.remove(list(found)[5] + ".index")
    with pytest.raises(
        UserError, match=r"00005-of-00016 (was replaced or removed|can't be opened)"
    ):
        source[10]
    assert source[20] == records[20]


def test_memory_of_a_large_split_is_that_of_its_shards():
    """10^8 records in 10^5 shards: bytes for each shard, none for a record."""
    table = np.zeros(100_000, split_index.SHARD)
    table["size"], table["records"] = 1_000_000, 1000
    found = {f"memory://large/{i}": 1_000_000 for i in range(100_000)}
    tracemalloc.start()
    try:
        index = split_index.SplitIndex(table, "00" * 16)
        source = record_source.TFRecordSource(found, splits=[(len(found), index)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source) == 10**8
    assert source.name(99_999_000) == "memory://large/99999, record 0,"
    assert peak < 20e6


def test_command_writes_the_indexes_of_a_build(folder, capsys):
    built = {n: storage.read(f"{folder}/toy-{n}.index") for n in ("train", "more")}
    digest = opened(folder).digest
    for name in built:
        os.remove(f"{folder}/toy-{name}.index")
    assert split_indexes.main([folder]) == 0
    assert f"indexed   train: 6 records, digest {digest}\n" in capsys.readouterr().out
    assert {n: storage.read(f"{folder}/toy-{n}.index") for n in built} == built


def test_command_accepts_changed_records(folder):
    before = opened(folder).digest
    shards.write_shard(next(iter(shard_names.find_shards(folder, "train"))), [b"a", b"b", b"c"])
    assert split_indexes.main([folder]) == 0
    dataset = opened(folder)
    assert dataset.digest != before
    assert (dataset.source[0], dataset.source.index_of(0)) == (b"a", f"{folder}/toy-train.index")


@pytest.mark.parametrize(
    "lost", ["metadata.json", "dataset_info.json", "toy-more.tfrecord-00000-of-00002"]
)
def test_command_refuses_an_incomplete_data_set(folder, lost, capsys):
    os.remove(f"{folder}/{lost}")
    assert split_indexes.main([folder]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("number,status", [(errno.EROFS, 2), (errno.EIO, 1)])
def test_command_names_file_that_it_cannot_write(folder, monkeypatch, capsys, number, status):
    def refuse(path, content):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(storage, "write", refuse)
    assert split_indexes.main([folder]) == status
    message = capsys.readouterr().err
    assert message.startswith(f"error: {folder}/toy-train.index can't be read or written (")
    assert message.count("\n") == 1


def test_data_set_at_a_url_is_opened_by_its_index():
    folder = toy_shards.write("memory://indexed", map(toy_shards.record, range(6)))
    assert opened(folder).source.index_of(0) == f"{folder}/toy-train.index"
