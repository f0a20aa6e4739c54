"""Test files held out of a folder that has no test split."""

from __future__ import annotations

import dataclasses

import catalog_trees as trees
import pytest

from data_pipelines.build.catalogs.held_out import hold_out
from data_pipelines.errors import UserError

COUNTS = {"cat": 10, "dog": 5, "horse": 1, "owl": 2}


@pytest.fixture
def folder(tmp_path):
    return trees.files(tmp_path, [f"{c}/{i}.mp4" for c, n in COUNTS.items() for i in range(n)])


def _paths(catalog, split):
    return {item.path for item in catalog.splits[split]}


def test_each_class_has_its_fraction_and_no_file_is_in_both_splits(folder):
    before = trees.listed("folder", folder)
    found = hold_out(before, folder, 0.2, seed=0)
    train, test = _paths(found, "train"), _paths(found, "test")
    assert train | test == _paths(before, "train")
    assert not train & test
    held = {c: sum(path.startswith(c) for path in test) for c in COUNTS}
    assert held == {"cat": 2, "dog": 1, "horse": 0, "owl": 1}
    assert found.class_names == tuple(COUNTS)
    assert dataclasses.asdict(found.held_out) == {
        "fraction": 0.2, "seed": 0, "files": 4, "of": 18, "single": ("horse",),
    }  # fmt: skip


def test_choice_depends_on_seed_and_not_on_order(folder):
    catalog = trees.listed("folder", folder)
    backwards = dataclasses.replace(catalog, splits={"train": catalog.splits["train"][::-1]})
    choices = [_paths(hold_out(catalog, folder, 0.5, seed), "test") for seed in (0, 1)]
    assert choices[0] != choices[1]
    assert _paths(hold_out(backwards, folder, 0.5, 0), "test") == choices[0]


def test_segments_and_links_of_a_file_are_in_one_split(tmp_path):
    folder = trees.files(tmp_path, [f"cat/{i}.mp4" for i in range(6)])
    for i in range(6):
        (tmp_path / "cat" / f"link{i}.mp4").symlink_to(tmp_path / "cat" / f"{i}.mp4")
    catalog = trees.listed("folder", folder)
    items = catalog.splits["train"]
    segments = [dataclasses.replace(item, id=f"{item.id} second", start=5.0) for item in items]
    catalog = dataclasses.replace(catalog, splits={"train": items + segments})
    found = hold_out(catalog, folder, 0.5, 0)
    numbers = [{path[-5] for path in _paths(found, split)} for split in ("train", "test")]
    assert not numbers[0] & numbers[1]
    assert [len(found.splits[split]) for split in ("train", "test")] == [12, 12]
    assert found.held_out.files == 3


@pytest.mark.parametrize(
    "paths,reason",
    [
        (["train/a/1.mp4", "val/a/2.mp4"], "the splits train, validation"),
        (["test/a/1.mp4", "test/a/2.mp4"], "the splits test"),
        (["a/1.mp4", "b/2.mp4"], "no class has two files"),
    ],
)
def test_folder_that_can_not_be_divided_is_refused(tmp_path, paths, reason):
    folder = trees.files(tmp_path, paths)
    with pytest.raises(UserError, match=rf"^--hold_out=0\.2: .*{reason}.*leave out --hold_out\.$"):
        hold_out(trees.listed("folder", folder), folder, 0.2, 0)
