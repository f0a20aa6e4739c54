"""Kinetics and AudioSet, whose lists have segments of recordings."""

from __future__ import annotations

import math

import catalog_trees as trees
import pytest

from configs import audioset as audioset_config
from data_pipelines.build.catalogs import audioset
from data_pipelines.errors import UserError


def test_kinetics400_clips_are_whole_files_in_any_container(tmp_path):
    catalog = trees.listed("kinetics400", trees.kinetics(tmp_path))
    assert catalog.class_names == ("abseiling", "playing drums", "strumming guitar")
    train = {i.id: (i.path, i.label, i.start, i.end) for i in catalog.splits["train"]}
    assert train["---0dWlqevI_000019_000029"] == (
        "train/playing drums/---0dWlqevI_000019_000029.mp4", 1, 0.0, math.inf,
    )  # fmt: skip
    assert train["_AbC_000000_000010"][0] == "train/abseiling/_AbC_000000_000010.mkv"
    (gone,) = catalog.splits["validation"]
    assert gone.path == "playing drums/gone_000100_000110.mp4"  # reported as missing later


def test_kinetics400_clips_are_segments_of_untrimmed_recordings(tmp_path):
    trees.write(tmp_path / "lists", {"train.csv": trees.KINETICS["annotations/train.csv"]})
    trees.files(tmp_path / "videos", ["---0dWlqevI.mp4", "_AbC.mp4", "strum.mp4"])
    catalog = trees.listed(
        "kinetics400", tmp_path / "videos", lists=str(tmp_path / "lists"), untrimmed=True
    )
    assert (catalog.splits["train"][0].path, catalog.splits["train"][0].start) == (
        "---0dWlqevI.mp4", 19,
    )  # fmt: skip


@pytest.mark.parametrize("classes", [31, 32])
def test_kinetics_sound_has_the_files_of_its_classes(tmp_path, classes):
    catalog = trees.listed("kinetics_sound", trees.kinetics(tmp_path), classes=classes)
    assert len(catalog.class_names) == len(set(catalog.class_names)) == classes
    kept = {i.label_text for i in catalog.splits["train"]}
    assert kept == {"playing drums"} | ({"strumming guitar"} if classes == 32 else set())
    for item in catalog.splits["train"]:
        assert catalog.class_names[item.label] == item.label_text


def test_kinetics_lists_with_a_fault_are_refused(tmp_path):
    with pytest.raises(UserError, match="31 or 32"):
        trees.listed("kinetics_sound", trees.kinetics(tmp_path), classes=30)
    (tmp_path / "annotations" / "train.csv").write_text("label,youtube_id\ndrums,x\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2: it lacks time_start"):
        trees.listed("kinetics400", tmp_path)
    with pytest.raises(UserError, match="--lists"):
        trees.listed("kinetics400", trees.files(tmp_path / "none", ["a.mp4"]))


def test_line_with_end_before_start_is_refused(tmp_path):
    trees.kinetics(tmp_path)
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations" / "train.csv").write_text(header + "drums,x,20,10,train\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2: it ends at 10 s, not after"):
        trees.listed("kinetics400", tmp_path)


def test_two_files_of_one_clip_are_refused(tmp_path):
    trees.kinetics(tmp_path)
    trees.files(tmp_path, ["copy/_AbC_000000_000010.mp4"])
    with pytest.raises(UserError, match="two files for _AbC_000000_000010"):
        trees.listed("kinetics400", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "--PJHxphWEs_000030_000040.mp4",
        "--PJHxphWEs_30_40.mp4",
        "--PJHxphWEs_30.000_40.000.wav",
        "--PJHxphWEs_30000_40000.mkv",
        "--PJHxphWEs_30.mp4",
        "Y--PJHxphWEs.wav",
        "--PJHxphWEs.mp4",
    ],
)
def test_audioset_file_is_found_under_each_usual_name(tmp_path, name):
    trees.audioset(tmp_path)
    trees.files(tmp_path, [f"clips/{name}"])
    catalog = trees.listed("audioset", tmp_path)
    assert catalog.multi_label
    assert catalog.class_names == ("Speech", "Male speech, man speaking", "Music")
    first, second = catalog.splits["balanced_train"]
    assert (first.path, first.labels, first.label) == (f"clips/{name}", (0, 2), -1)
    assert first.label_text == "Speech; Music"
    assert second.labels == (1,)
    assert [i.id for i in catalog.splits["eval"]] == ["zzz_7_17"]


def test_audioset_config_reads_splits_of_catalog():
    splits = set(audioset.LISTS.values())
    assert set(audioset_config.get_config().data.split.split("+")) == splits - {"eval"}


def test_audioset_clips_are_segments_of_untrimmed_recordings(tmp_path):
    trees.audioset(tmp_path / "lists")
    trees.files(tmp_path / "videos", ["--PJHxphWEs.mp4"])
    catalog = trees.listed(
        "audioset", tmp_path / "videos", lists=str(tmp_path / "lists"), untrimmed=True
    )
    first = catalog.splits["balanced_train"][0]
    assert (first.path, first.start, first.end) == ("--PJHxphWEs.mp4", 30, 40)


@pytest.mark.parametrize(
    "line,fault",
    [
        ("x, 1.0", "it lacks end_seconds, positive_labels"),
        ("x, 1, 2, /m/unknown", "lacks the class '/m/unknown'"),
        ("x, one, two, /m/04rlf", "start_seconds is 'one'"),
    ],
)
def test_audioset_lists_with_a_fault_are_refused(tmp_path, line, fault):
    trees.audioset(tmp_path)
    trees.write(tmp_path, {"eval_segments.csv": f"# comment\n\n{line}\n"})
    with pytest.raises(UserError, match=rf"eval_segments\.csv, line 3: .*{fault}"):
        trees.listed("audioset", tmp_path)
