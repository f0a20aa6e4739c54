"""Common properties of catalogs."""

from __future__ import annotations

import catalog_trees as trees
import pytest

from data_pipelines.build.catalogs.source_tree import SourceTree
from data_pipelines.errors import UserError
from data_pipelines.format import file_tree


def test_duplicate_list_is_refused(tmp_path):
    for number, (name, write, extra) in enumerate(
        [
            ("kinetics400", trees.kinetics, "copy/train.csv"),
            ("kinetics400", trees.kinetics, "copy/validate.csv"),
            ("audioset", trees.audioset, "copy/eval_segments.csv"),
            ("hmdb51", trees.hmdb51, "copy/cartwheel_test_split1.txt"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder)
        trees.files(folder, [extra])
        with pytest.raises(UserError, match="are the same list: remove one"):
            trees.listed(name, folder)


def test_source_with_lists_is_walked_once(tmp_path, monkeypatch):
    walked: list[str] = []
    walk = file_tree.walk

    def count(folder):
        walked.append(folder)
        return walk(folder)

    monkeypatch.setattr(file_tree, "walk", count)
    trees.listed("fsd50k", trees.fsd50k(tmp_path))
    assert walked == [str(tmp_path)]


def test_shards_inside_source_are_not_items(tmp_path):
    shards = [f"shards/a-all.tfrecord-0000{i}-of-00002" for i in (0, 1)]
    trees.files(
        tmp_path, ["a.tfrecord-x/1.wav", *shards, f"{shards[0]}.index", f"{shards[1]}.7.tmp"]
    )
    tree = SourceTree(str(tmp_path))
    assert tree.by_stem().paths() == {"1": "a.tfrecord-x/1.wav"}
    assert [(one.what, one.count) for one in tree.other_files()] == [("shard files", 4)]
