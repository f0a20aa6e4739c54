"""Folders of videos as data sets: classes, splits and links."""

from __future__ import annotations

import catalog_trees as trees
import pytest

from data_pipelines.errors import UserError


def test_subfolders_are_classes(tmp_path):
    trees.files(
        tmp_path, ["dog/b.mp4", "dog/deep/a.mkv", "cat/c.avi", "loose.webm", ".hidden/x.mp4"]
    )
    catalog = trees.listed("folder", tmp_path)
    assert catalog.class_names == ("cat", "dog")
    assert {i.path: i.label for i in catalog.splits["train"]} == {
        "cat/c.avi": 0, "dog/b.mp4": 1, "dog/deep/a.mkv": 1, "loose.webm": -1,
    }  # fmt: skip


def test_files_outside_of_subfolders_have_no_class(tmp_path):
    catalog = trees.listed("folder", trees.files(tmp_path, ["a.mp4", "b.mp4"]))
    assert catalog.class_names == ()
    assert [i.label for i in catalog.splits["train"]] == [-1, -1]


def test_folders_with_names_of_splits_are_splits(tmp_path):
    trees.files(tmp_path, ["train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4"])
    catalog = trees.listed("folder", tmp_path)
    assert catalog.class_names == ("a", "b")
    assert {s: [i.label for i in items] for s, items in catalog.splits.items()} == {
        "train": [0, 1],
        "validation": [1],
    }


def test_folders_without_media_are_ignored(tmp_path):
    trees.files(tmp_path, ["train/a/1.mp4", "val/a/2.mp4", "annotations/labels.csv"])
    catalog = trees.listed("folder", tmp_path)
    assert catalog.class_names == ("a",)
    assert [i.path for i in catalog.splits["validation"]] == ["val/a/2.mp4"]
    assert "train/a/1.mp4" in [i.path for i in catalog.splits["train"]]


def test_splits_with_other_folders_are_refused(tmp_path):
    trees.files(tmp_path, ["train/a/1.mp4", "val/a/2.mp4", "extra/3.mp4"])
    with pytest.raises(
        UserError, match=r"has the splits train, val and other folders \(extra\): move"
    ):
        trees.listed("folder", tmp_path)
    trees.files(
        tmp_path / "vehicles", ["train/1.mp4", "bus/2.mp4"]
    )  # train is a class in this folder
    assert trees.listed("folder", tmp_path / "vehicles").class_names == ("bus", "train")


def test_links_are_followed_without_cycles(tmp_path):
    trees.files(tmp_path, ["real/a.mp4"])
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "tree" / "cat" / "up").symlink_to(tmp_path / "tree")
    catalog = trees.listed("folder", tmp_path / "tree")
    assert [i.path for i in catalog.splits["train"]] == ["linked/a.mp4"]


def test_files_other_than_media_are_counted_and_not_read(tmp_path):
    names = ["README", "cat/README.md", "LICENSE", "cat/Thumbs.db"]
    trees.files(tmp_path, ["cat/a.mp4", "cat/without_suffix", *names])
    catalog = trees.listed("folder", tmp_path)
    assert [i.path for i in catalog.splits["train"]] == ["cat/a.mp4", "cat/without_suffix"]
    assert {i.what for i in catalog.ignored} == {
        ".md files", "files named license", "files named readme", "files named thumbs.db",
    }  # fmt: skip
