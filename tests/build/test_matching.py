"""Matching of the files of a source to the names in lists."""

from __future__ import annotations

import catalog_trees as trees
import pytest

from data_pipelines.build.catalogs import suffixes
from data_pipelines.build.catalogs.suffixes import Kind
from data_pipelines.errors import UserError

# Files of yt-dlp and other tools beside a video.
BESIDE = [
    ".jpg", ".webp", ".png", ".description", ".info.json", ".en.vtt", ".vtt", ".de.srt", ".ass",
    ".live_chat.json", ".annotations.xml", ".mp4.part", ".part", ".mp4.part-Frag3",
    ".mp4.part-Frag3.part", ".mp4.ytdl", ".mp4.aria2", ".url", ".webloc", ".txt", ".JPG", ".temp",
    ".f137.mp4", ".f140.m4a", ".temp.mp4",
]  # fmt: skip


def _audioset(folder, names) -> str:
    lists = {
        "class_labels_indices.csv": 'index,mid,display_name\n0,/m/09x0r,"Speech"\n',
        "eval_segments.csv": '--4gqARaEJE, 0.000, 10.000, "/m/09x0r"\n',
    }
    trees.write(folder, lists)
    return trees.files(folder, names)


@pytest.mark.parametrize("beside", BESIDE)
def test_files_beside_video_are_ignored(tmp_path, beside):
    _audioset(tmp_path, ["--4gqARaEJE.mp4", f"--4gqARaEJE{beside}"])
    catalog = trees.listed("audioset", tmp_path)
    assert [i.path for i in catalog.splits["eval"]] == ["--4gqARaEJE.mp4"]
    assert sum(one.count for one in catalog.ignored) == 1  # the lists are used
    assert catalog.ignored[0].example == f"--4gqARaEJE{beside}"


def test_files_beside_missing_video_are_not_used(tmp_path):
    _audioset(tmp_path, [f"--4gqARaEJE{suffix}" for suffix in BESIDE])
    assert trees.listed("audioset", tmp_path).splits["eval"][0].path.endswith("_000010.mp4")


def test_two_videos_with_listed_name_are_refused(tmp_path):
    _audioset(tmp_path, ["--4gqARaEJE.mp4", "other.mp4", "other.webm"])
    trees.listed("audioset", tmp_path)
    trees.files(tmp_path, ["--4gqARaEJE.webm"])
    with pytest.raises(UserError, match=r"two files for --4gqARaEJE, .*\.mp4 and .*\.webm: remove"):
        trees.listed("audioset", tmp_path)


def test_file_with_unknown_suffix_is_used_if_no_media_file_matches(tmp_path):
    _audioset(tmp_path, ["--4gqARaEJE.unknown"])
    assert trees.listed("audioset", tmp_path).splits["eval"][0].path == "--4gqARaEJE.unknown"
    trees.files(tmp_path, ["a/--4gqARaEJE.MKV"])
    assert trees.listed("audioset", tmp_path).splits["eval"][0].path == "a/--4gqARaEJE.MKV"


def test_identifiers_are_case_sensitive(tmp_path):
    _audioset(tmp_path, ["--4GQARAEJE.mp4"])
    assert trees.listed("audioset", tmp_path).splits["eval"][0].path != "--4GQARAEJE.mp4"


@pytest.mark.parametrize(
    "path, kind",
    [
        ("a.mp4", Kind.MEDIA), ("b/a.WAV", Kind.MEDIA), ("a.b.webm", Kind.MEDIA),
        ("a.jpg", Kind.OTHER), ("b.mp4/a.csv", Kind.OTHER), ("a.mp4.part", Kind.OTHER),
        ("a", Kind.UNKNOWN), ("a.video", Kind.UNKNOWN), ("a.b/c", Kind.UNKNOWN),
        ("x.tfrecord-00000-of-00001", Kind.OTHER),
    ],
)  # fmt: skip
def test_kind_of_file_follows_from_its_suffix(path, kind):
    assert suffixes.kind(path) is kind


def _folder(folder, paths):
    trees.files(folder, paths)
    return trees.listed("folder", folder)


def test_folder_of_downloads_lists_only_videos(tmp_path):
    catalog = _folder(
        tmp_path, ["cat/a.mp4", "cat/a.jpg", "cat/b.webp", "info/x.json", "cat/c.jpg"]
    )
    assert [i.path for i in catalog.splits["train"]] == ["cat/a.mp4"]
    assert catalog.class_names == ("cat",)
    assert {one.what: one.count for one in catalog.ignored} == {
        ".jpg files": 2, ".json files": 1, ".webp files": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="no files of sound or video"):
        _folder(tmp_path / "info", ["y.json"])


def _ucf101(folder, paths, listed="HandstandPushups/v_HandStandPushups_g01_c01.avi", known=""):
    lists = {f"{use}list0{k}.txt": "" for use in ("train", "test") for k in (1, 2, 3)}
    lists["classInd.txt"] = f"1 {known or 'HandstandPushups'}\n2 Archery\n"
    lists["trainlist01.txt"] = f"{listed} 1\n"
    trees.write(folder / "lists", lists)
    trees.files(folder / "videos", ["README", *paths])
    return trees.listed("ucf101", folder / "videos", lists=str(folder / "lists"))


@pytest.mark.parametrize(
    "path",
    [
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.mp4",
        "HandStandPushups/v_HandstandPushups_g01_c01.avi",
        "Handstand Pushups/v_HandStandPushups_g01_c01.mkv",
        "v_HandStandPushups_g01_c01.mp4",
        "all/v_handstandpushups_g01_c01.MP4",
    ],
)
@pytest.mark.parametrize("listed", ["HandstandPushups", "HandStandPushups"])
@pytest.mark.parametrize("known", ["HandstandPushups", "HandStandPushups"])
def test_ucf101_file_is_found_in_other_folder_container_or_spelling(tmp_path, path, listed, known):
    catalog = _ucf101(tmp_path, [path], f"{listed}/v_HandStandPushups_g01_c01.avi", known)
    (item,) = catalog.splits["all"]
    assert (item.path, item.label, item.label_text) == (path, 0, known)


def test_ucf101_file_in_folder_of_other_class_is_not_used(tmp_path):
    catalog = _ucf101(tmp_path, ["Archery/v_HandStandPushups_g01_c01.avi"])
    (item,) = catalog.splits["all"]
    assert item.path == "HandstandPushups/v_HandStandPushups_g01_c01.avi"  # missing
    assert "media files in no list" in [one.what for one in catalog.ignored]


def test_ucf101_with_two_files_of_one_video_is_refused(tmp_path):
    name = "v_HandStandPushups_g01_c01"
    with pytest.raises(UserError, match=r"two files for .*: remove one"):
        _ucf101(tmp_path / "a", [f"x/HandstandPushups/{name}.avi", f"HandstandPushups/{name}.mp4"])
    with pytest.raises(UserError, match=r"two files for .*: remove one"):
        _ucf101(tmp_path / "b", [f"x/{name}.avi", f"{name}.mp4"])
    catalog = _ucf101(tmp_path / "c", [f"{name}.avi", f"{name.lower()}.avi", f"{name}.jpg"])
    assert catalog.splits["all"][0].path == f"{name}.avi"  # the file in the same case is used


def _hmdb51(folder, paths, classes=("wave",), file="#20_Rhythm_wave_u_nm.avi"):
    for name in classes:
        for k in (1, 2, 3):
            trees.write(folder / "lists", {f"{name}_test_split{k}.txt": f"{file} 1 \n"})
    trees.files(folder / "videos", ["README", *paths])
    return trees.listed("hmdb51", folder / "videos", lists=str(folder / "lists"))


@pytest.mark.parametrize(
    "path",
    [
        "wave/#20_Rhythm_wave_u_nm.avi",
        "wave/#20_Rhythm_wave_u_nm.mp4",
        "hmdb/Wave/#20_Rhythm_wave_u_nm.webm",
        "#20_Rhythm_wave_u_nm.mp4",
        "flat/#20_rhythm_wave_u_nm.mp4",
    ],
)
def test_hmdb51_file_is_found_in_another_folder_or_container(tmp_path, path):
    catalog = _hmdb51(tmp_path, [path, f"{path}.part", path.rpartition(".")[0] + ".jpg"])
    assert [i.path for i in catalog.splits["all"]] == [path]


def test_hmdb51_name_in_two_classes_is_matched_by_folder_alone(tmp_path):
    names = ("wave", "clap")
    paths = ["clap/x.mp4", "wave/x.mp4"]
    catalog = _hmdb51(tmp_path / "a", paths, names, "x.avi")
    assert [(i.path, i.label_text) for i in catalog.splits["all"]] == [
        ("clap/x.mp4", "clap"), ("wave/x.mp4", "wave"),
    ]  # fmt: skip
    catalog = _hmdb51(tmp_path / "b", ["x.mp4"], names, "x.avi")
    assert [i.path for i in catalog.splits["all"]] == ["clap/x.avi", "wave/x.avi"]  # ambiguous
    assert ("files that match several lines", 1) in [(i.what, i.count) for i in catalog.ignored]


def test_composed_and_decomposed_accents_match(tmp_path):
    catalog = _hmdb51(tmp_path, ["wave/cafe\u0301.mp4"], file="caf\u00e9.avi")
    assert catalog.splits["all"][0].path == "wave/cafe\u0301.mp4"


TEST_LIST = "youtube_id,time_start,time_end,split\nb,0,10,test\n"


@pytest.mark.parametrize(
    "test_list", [TEST_LIST, "label,youtube_id,time_start,time_end,split\n,b,0,10,test\n"]
)
def test_kinetics_lines_without_a_label_are_unlabeled_items(tmp_path, test_list):
    train = "label,youtube_id,time_start,time_end,split\nsinging,a,0,10,train\n"
    trees.write(tmp_path, {"train.csv": train, "test.csv": test_list})
    trees.files(tmp_path, ["train/singing/a_000000_000010.mp4", "test/b_000000_000010.mp4"])
    catalog = trees.listed("kinetics400", tmp_path)
    assert catalog.class_names == ("singing",)
    found = {split: [(i.path, i.label) for i in items] for split, items in catalog.splits.items()}
    assert found == {
        "train": [("train/singing/a_000000_000010.mp4", 0)],
        "test": [("test/b_000000_000010.mp4", -1)],
    }
    sound = trees.listed("kinetics_sound", tmp_path)
    assert list(sound.splits) == ["train"]
    assert ("lines without a label", 1) in [(i.what, i.count) for i in sound.ignored]
