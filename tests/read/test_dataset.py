import dataclasses
import json
import os
import pathlib
import pickle

import pytest
import toy_shards

from data_pipelines.errors import UserError
from data_pipelines.format import shard_names, shards
from data_pipelines.read.dataset import open_dataset

CONFIG = toy_shards.CONFIG


def test_data_set_is_opened_and_read(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(5)))
    dataset = open_dataset(CONFIG, folder, "train")
    assert len(dataset) == 5
    assert sorted(dataset[i].id for i in range(5)) == [f"clip{i}" for i in range(5)]
    assert pickle.loads(pickle.dumps(dataset))[2].id == dataset[2].id


def test_incomplete_data_set_is_refused(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(2)))
    (tmp_path / "dataset_info.json").unlink()
    with pytest.raises(UserError, match="incomplete"):
        open_dataset(CONFIG, folder, "train")


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="no records"):
        open_dataset(CONFIG, toy_shards.write(tmp_path, []), "train")


def test_shards_that_differ_from_description_are_refused(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(5)))
    name = shard_names.shard_name("toy", "train", 1, 2)
    shards.write_shard(f"{folder}/{name}", [b"one"])
    with pytest.raises(UserError, match=r"00001-of-00002 has 1 record .* states 2"):
        open_dataset(CONFIG, folder, "train")


@pytest.mark.parametrize("content", ["{", "{}", '{"splits": [{"name": "train"}]}'])
def test_damaged_description_is_refused(tmp_path, content):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(2)))
    (tmp_path / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        open_dataset(CONFIG, folder, "train")


def test_another_number_of_shards_is_refused(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(2)))
    path = pathlib.Path(folder) / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"].append("3")
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"2 shards .* states 3"):
        open_dataset(CONFIG, folder, "train")


def test_other_rates_are_refused(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, hop=143)
    folder = toy_shards.write(tmp_path, [toy_shards.record(0)], metadata)
    with pytest.raises(UserError, match=r"audio\.hop"):
        open_dataset(CONFIG, folder, "train")


def test_record_of_another_layout_is_named(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(2)))
    name = shard_names.shard_name("toy", "train", 1, 2)
    shards.write_shard(f"{folder}/{name}", [b"\x0a\xff"])
    with pytest.raises(UserError, match=r"00001-of-00002, record 0, does not have the layout"):
        open_dataset(CONFIG, folder, "train")[1]


def test_checksum_verification_can_be_disabled(tmp_path):
    folder = toy_shards.write(tmp_path, [toy_shards.record(0)])
    path = next(p for p in shard_names.find_shards(folder, "train") if os.path.getsize(p))
    content = bytearray(pathlib.Path(path).read_bytes())
    content[-1] ^= 1
    pathlib.Path(path).write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        open_dataset(CONFIG, folder, "train")[0]
    assert open_dataset(toy_shards.config(verify_checksums=False), folder, "train")[0].id == "clip0"


def test_two_splits_are_read_as_one(tmp_path):
    more = [toy_shards.record(i) for i in range(5, 8)]
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(5)), more=more)
    dataset = open_dataset(CONFIG, folder, "train+more")
    assert {dataset[i].id for i in range(len(dataset))} == {f"clip{i}" for i in range(8)}
    with pytest.raises(UserError, match=r"split='train\+train' repeats a split"):
        open_dataset(CONFIG, folder, "train+train")


def test_records_of_a_fold_are_selected(tmp_path):
    metadata = dataclasses.replace(toy_shards.METADATA, folds=2)
    uses = [((1,), (2,)), ((1, 2), ()), ((2,), (1,)), ((), ())]
    records = [
        dataclasses.replace(toy_shards.record(i), train_folds=train, test_folds=test)
        for i, (train, test) in enumerate(uses)
    ]
    dataset = open_dataset(CONFIG, toy_shards.write(tmp_path, records, metadata), "train")
    index = toy_shards.index(dataset)
    assert [f"{'abc'[label]}" for label in index.label] == [
        dataset[i].label_text for i in range(len(dataset))
    ]

    def ids(fold, use):
        return {dataset[int(i)].id for i in index.fold_records(fold, use)}

    assert ids(1, "train") == {"clip0", "clip1"}
    assert ids(1, "test") == {"clip2"}
    assert ids(2, "test") == {"clip0"}
    with pytest.raises(UserError, match="has 2 folds and no fold 3"):
        index.fold_records(3, "test")


def test_digest_depends_only_on_content(tmp_path):
    records = [toy_shards.record(i) for i in range(70)]

    def digest(name, records):
        folder = toy_shards.write(tmp_path / name, records)
        counts = []
        found = toy_shards.index(open_dataset(CONFIG, folder, "train"), 3, counts.append)
        assert counts == [32, 64, 70]
        return found.digest

    plain = digest("one", records)
    assert digest("two", records) == plain
    # a label of equal length, so that names and sizes of shards are unchanged
    changed = [*records[:69], dataclasses.replace(records[69], label=1)]
    assert records[69].label == 0
    assert digest("three", changed) != plain
    was, now = (shard_names.find_shards(str(tmp_path / name), "train") for name in ("one", "three"))
    assert list(was.values()) == list(now.values())
    assert digest("four", records[2:4] + records[:2] + records[4:]) != plain


def test_damaged_record_ends_indexing(tmp_path):
    folder = toy_shards.write(tmp_path, map(toy_shards.record, range(70)))
    dataset = open_dataset(CONFIG, folder, "train")
    (tmp_path / "toy-train.tfrecord-00001-of-00002").write_bytes(b"")
    with pytest.raises(UserError, match="was replaced or removed"):
        toy_shards.index(dataset, 2)
