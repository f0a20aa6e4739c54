"""Shards in the DMVR schema are found by the name of their split."""

import pytest

from data_pipelines.errors import UserError
from data_pipelines.format import dmvr_shards


@pytest.fixture
def folder(tmp_path):
    for name in ("a_train-0000{}-of-00002", "test.tfrecord-0000{}-of-00002"):
        for shard, size in enumerate((5, 7)):
            (tmp_path / name.format(shard)).write_bytes(bytes(size))
    (tmp_path / "readme.txt").touch()
    return tmp_path


@pytest.mark.parametrize("split,name", [("train", "a_train"), ("test", "test.tfrecord")])
def test_shards_are_found_by_their_split(folder, split, name):
    assert dmvr_shards.has_shards(str(folder))
    found = dmvr_shards.find_shards(str(folder), split)
    first, second = (f"{folder}/{name}-0000{shard}-of-00002" for shard in range(2))
    assert list(found.items()) == [(first, 5), (second, 7)]


def test_missing_split_is_named(folder):
    with pytest.raises(UserError, match="it has a_train, test: give the folder of one data set"):
        dmvr_shards.find_shards(str(folder), "validation")


def test_missing_shard_is_named(folder):
    (folder / "a_train-00001-of-00002").unlink()
    with pytest.raises(UserError, match="lacks the shard a_train-00001-of-00002"):
        dmvr_shards.find_shards(str(folder), "train")


def test_folder_of_two_builds_of_a_split_is_refused(folder):
    (folder / "b_train-00000-of-00001").touch()
    with pytest.raises(UserError, match="must have one set of shards train-00000-of-000NN"):
        dmvr_shards.find_shards(str(folder), "train")


def test_other_files_are_no_shards(tmp_path):
    for name in ("video.mp4", "train-0-of-1", "train-00000-of-00002.index"):
        (tmp_path / name).touch()
    assert not dmvr_shards.has_shards(str(tmp_path))
