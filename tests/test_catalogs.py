"""Each data set from a miniature tree in its true layout, with lists in their true formats."""

from __future__ import annotations

import math

import pytest

from configs import audioset as audioset_config
from data_pipelines import storage
from data_pipelines.catalogs import CATALOGS, audioset
from data_pipelines.catalogs.catalog import Source
from data_pipelines.catalogs.source_tree import SourceTree
from xkd_jax.errors import UserError


def _files(folder, paths) -> str:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return str(folder)


def _write(folder, texts) -> None:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def _list(name: str, folder, **source):
    return CATALOGS[name](Source(str(folder), **source))


def test_folder_with_labels(tmp_path):
    _files(tmp_path, ["dog/b.mp4", "dog/deep/a.mkv", "cat/c.avi", "loose.webm", ".hidden/x.mp4"])
    catalog = _list("folder", tmp_path)
    assert catalog.class_names == ("cat", "dog")
    assert {i.path: i.label for i in catalog.splits["train"]} == {
        "cat/c.avi": 0, "dog/b.mp4": 1, "dog/deep/a.mkv": 1, "loose.webm": -1,
    }  # fmt: skip


def test_folder_without_labels(tmp_path):
    catalog = _list("folder", _files(tmp_path, ["a.mp4", "b.mp4"]))
    assert catalog.class_names == ()
    assert [i.label for i in catalog.splits["train"]] == [-1, -1]


def test_folder_with_splits(tmp_path):
    _files(tmp_path, ["train/a/1.mp4", "train/b/2.mp4", "val/b/3.mp4"])
    catalog = _list("folder", tmp_path)
    assert catalog.class_names == ("a", "b")
    assert {s: [i.label for i in items] for s, items in catalog.splits.items()} == {
        "train": [0, 1],
        "validation": [1],
    }


def test_folders_without_media_are_no_classes_and_hinder_no_splits(tmp_path):
    _files(tmp_path, ["train/a/1.mp4", "val/a/2.mp4", "annotations/labels.csv"])
    catalog = _list("folder", tmp_path)
    assert catalog.class_names == ("a",)
    assert [i.path for i in catalog.splits["validation"]] == ["val/a/2.mp4"]
    assert "train/a/1.mp4" in [i.path for i in catalog.splits["train"]]


def test_splits_beside_other_folders_are_refused(tmp_path):
    _files(tmp_path, ["train/a/1.mp4", "val/a/2.mp4", "extra/3.mp4"])
    with pytest.raises(UserError, match="has the splits train, val and beside them extra: move"):
        _list("folder", tmp_path)
    _files(tmp_path / "vehicles", ["train/1.mp4", "bus/2.mp4"])  # train is a class here
    assert _list("folder", tmp_path / "vehicles").class_names == ("bus", "train")


def test_folder_follows_links_but_not_in_circles(tmp_path):
    _files(tmp_path, ["real/a.mp4"])
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "tree" / "cat" / "up").symlink_to(tmp_path / "tree")
    catalog = _list("folder", tmp_path / "tree")
    assert [i.path for i in catalog.splits["train"]] == ["linked/a.mp4"]


KINETICS = {
    "annotations/train.csv": (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "playing drums,---0dWlqevI,19,29,train,0\n"
        '"abseiling",_AbC,0,10,train,1\n'
        "strumming guitar,strum,5,15,train,0\n"
    ),
    "annotations/val.csv": (
        "label,youtube_id,time_start,time_end,split\nplaying drums,gone,100,110,validate\n"
    ),
}


def _kinetics(folder):
    _write(folder, KINETICS)
    return _files(
        folder,
        [
            "train/playing drums/---0dWlqevI_000019_000029.mp4",
            "train/abseiling/_AbC_000000_000010.mkv",
            "train/strumming guitar/strum_000005_000015.webm",
        ],
    )


def test_kinetics400(tmp_path):
    catalog = _list("kinetics400", _kinetics(tmp_path))
    assert catalog.class_names == ("abseiling", "playing drums", "strumming guitar")
    train = {i.id: (i.path, i.label, i.start, i.end) for i in catalog.splits["train"]}
    assert train["---0dWlqevI_000019_000029"] == (
        "train/playing drums/---0dWlqevI_000019_000029.mp4", 1, 0.0, math.inf,
    )  # fmt: skip
    assert train["_AbC_000000_000010"][0] == "train/abseiling/_AbC_000000_000010.mkv"
    (gone,) = catalog.splits["validation"]
    assert gone.path == "playing drums/gone_000100_000110.mp4"  # it will be reported as missing


def test_kinetics400_of_whole_recordings(tmp_path):
    _write(tmp_path / "lists", {"train.csv": KINETICS["annotations/train.csv"]})
    _files(tmp_path / "videos", ["---0dWlqevI.mp4", "_AbC.mp4", "strum.mp4"])
    catalog = _list("kinetics400", tmp_path / "videos", lists=str(tmp_path / "lists"),
                    untrimmed=True)  # fmt: skip
    assert (catalog.splits["train"][0].path, catalog.splits["train"][0].start) == (
        "---0dWlqevI.mp4", 19,
    )  # fmt: skip


@pytest.mark.parametrize("classes", [31, 32])
def test_kinetics_sound(tmp_path, classes):
    catalog = _list("kinetics_sound", _kinetics(tmp_path), classes=classes)
    assert len(catalog.class_names) == len(set(catalog.class_names)) == classes
    kept = {i.label_text for i in catalog.splits["train"]}
    assert kept == {"playing drums"} | ({"strumming guitar"} if classes == 32 else set())
    for item in catalog.splits["train"]:
        assert catalog.class_names[item.label] == item.label_text


def test_kinetics_faults(tmp_path):
    with pytest.raises(UserError, match="31 or 32"):
        _list("kinetics_sound", _kinetics(tmp_path), classes=30)
    (tmp_path / "annotations" / "train.csv").write_text("label,youtube_id\ndrums,x\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2: it lacks time_start"):
        _list("kinetics400", tmp_path)
    with pytest.raises(UserError, match="--lists"):
        _list("kinetics400", _files(tmp_path / "none", ["a.mp4"]))


def test_a_list_twice_is_refused(tmp_path):
    for number, (name, write, extra) in enumerate(
        [
            ("kinetics400", _kinetics, "copy/train.csv"),
            ("kinetics400", _kinetics, "copy/validate.csv"),
            ("audioset", _audioset, "copy/eval_segments.csv"),
            ("hmdb51", _hmdb51, "copy/cartwheel_test_split1.txt"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder)
        _files(folder, [extra])
        with pytest.raises(UserError, match="are lists of the same: keep one"):
            _list(name, folder)


def test_a_row_that_ends_before_it_starts_is_refused(tmp_path):
    _kinetics(tmp_path)
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "annotations" / "train.csv").write_text(header + "drums,x,20,10,train\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2: it ends at 10 s, not after"):
        _list("kinetics400", tmp_path)


def test_two_files_of_one_name(tmp_path):
    _kinetics(tmp_path)
    _files(tmp_path, ["copy/_AbC_000000_000010.mp4"])
    with pytest.raises(UserError, match="two files for _AbC_000000_000010"):
        _list("kinetics400", tmp_path)


def _audioset(folder) -> str:
    _write(
        folder,
        {
            "class_labels_indices.csv": (
                "index,mid,display_name\n"
                '0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/m/04rlf,"Music"\n'
            ),
            "balanced_train_segments.csv": (
                "# Segments csv created Sun Mar  5 10:54:31 2017\n"
                "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3\n"
                "# YTID, start_seconds, end_seconds, positive_labels\n"
                '--PJHxphWEs, 30.000, 40.000, "/m/04rlf,/m/09x0r"\n'
                '-abc, 0.000, 10.000, "/m/05zppz"\n'
            ),
            "eval_segments.csv": '# c\nzzz, 7.000, 17.000, "/m/04rlf"\n',
        },
    )
    return str(folder)


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
def test_audioset(tmp_path, name):
    _audioset(tmp_path)
    _files(tmp_path, [f"clips/{name}"])
    catalog = _list("audioset", tmp_path)
    assert catalog.multi_label
    assert catalog.class_names == ("Speech", "Male speech, man speaking", "Music")
    first, second = catalog.splits["balanced_train"]
    assert (first.path, first.labels, first.label) == (f"clips/{name}", (0, 2), -1)
    assert first.label_text == "Speech; Music"
    assert second.labels == (1,)
    assert [i.id for i in catalog.splits["eval"]] == ["zzz_7_17"]


def test_the_run_on_audioset_reads_the_splits_that_its_catalog_makes():
    splits = set(audioset._LISTS.values())
    assert set(audioset_config.get_config().data.split.split("+")) == splits - {"eval"}


def test_audioset_of_whole_recordings(tmp_path):
    _audioset(tmp_path / "lists")
    _files(tmp_path / "videos", ["--PJHxphWEs.mp4"])
    catalog = _list("audioset", tmp_path / "videos", lists=str(tmp_path / "lists"), untrimmed=True)
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
def test_audioset_faults(tmp_path, line, fault):
    _audioset(tmp_path)
    _write(tmp_path, {"eval_segments.csv": f"# comment\n\n{line}\n"})
    with pytest.raises(UserError, match=rf"eval_segments\.csv, line 3: .*{fault}"):
        _list("audioset", tmp_path)


def _ucf101(folder) -> str:
    lists = {
        "classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n10 Billiards\n",
        "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n",
        "testlist01.txt": "Archery/v_Archery_g01_c01.avi\nBilliards/v_Billiards_g01_c01.avi\n",
        "trainlist02.txt": "Archery/v_Archery_g01_c01.avi 2\n",
        "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
        "trainlist03.txt": "Archery/v_Archery_g01_c01.avi 2\n",
        "testlist03.txt": "Billiards/v_Billiards_g01_c01.avi\r\n",
    }
    _write(folder, {f"ucfTrainTestlist/{name}": text for name, text in lists.items()})
    return _files(
        folder,
        [
            "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
            "UCF-101/Archery/v_Archery_g01_c01.avi",
            "UCF-101/Billiards/v_Billiards_g01_c01.avi",
        ],
    )


def test_ucf101(tmp_path):
    catalog = _list("ucf101", _ucf101(tmp_path))
    assert catalog.class_names == ("ApplyEyeMakeup", "Archery", "Billiards")
    assert (catalog.folds, catalog.modalities) == (3, ("video",))
    found = {i.label: (i.path, i.train_folds, i.test_folds) for i in catalog.splits["all"]}
    assert found == {
        0: ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", (1,), (2,)),
        1: ("UCF-101/Archery/v_Archery_g01_c01.avi", (2, 3), (1,)),
        2: ("UCF-101/Billiards/v_Billiards_g01_c01.avi", (), (1, 3)),
    }


def test_ucf101_faults(tmp_path):
    _ucf101(tmp_path)
    _write(tmp_path, {"ucfTrainTestlist/classInd.txt": "1 Archery\n"})
    with pytest.raises(UserError, match="lacks the class of ApplyEyeMakeup"):
        _list("ucf101", tmp_path)
    (tmp_path / "ucfTrainTestlist" / "testlist02.txt").unlink()
    with pytest.raises(UserError, match=r"no testlist02\.txt"):
        _list("ucf101", tmp_path)


def _hmdb51(folder) -> str:
    uses = {"brush_hair": ("1 2", "2 1", "0 1"), "cartwheel": ("1 0", "1 0", "2 0")}
    for name, folds in uses.items():
        for k, numbers in enumerate(folds, 1):
            a, b = numbers.split()
            text = f"A_{name}_h_nm.avi {a} \nB b!_{name}#1.avi {b} \n"
            _write(folder, {f"testTrainMulti_7030_splits/{name}_test_split{k}.txt": text})
    return _files(
        folder,
        [f"{n}/{f}" for n in uses for f in (f"A_{n}_h_nm.avi", f"B b!_{n}#1.avi")],
    )


def test_hmdb51(tmp_path):
    catalog = _list("hmdb51", _hmdb51(tmp_path))
    assert catalog.class_names == ("brush_hair", "cartwheel")
    found = [(i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]]
    assert found == [
        ("brush_hair/A_brush_hair_h_nm.avi", 0, (1,), (2,)),
        ("brush_hair/B b!_brush_hair#1.avi", 0, (2, 3), (1,)),
        ("cartwheel/A_cartwheel_h_nm.avi", 1, (1, 2), (3,)),
        ("cartwheel/B b!_cartwheel#1.avi", 1, (), ()),
    ]


def test_hmdb51_faults(tmp_path):
    _hmdb51(tmp_path)
    lists = tmp_path / "testTrainMulti_7030_splits"
    (lists / "cartwheel_test_split2.txt").write_text("a.avi 3\n")
    with pytest.raises(UserError, match="not 'file n'"):
        _list("hmdb51", tmp_path)
    (lists / "cartwheel_test_split2.txt").unlink()
    with pytest.raises(UserError, match=r"cartwheel_test_split2\.txt is missing"):
        _list("hmdb51", tmp_path)


def test_esc50(tmp_path):
    _write(
        tmp_path,
        {
            "meta/esc50.csv": (
                "filename,fold,target,category,esc10,src_file,take\n"
                "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
                "5-9032-A-36.wav,5,36,vacuum_cleaner,False,9032,A\n"
            )
        },
    )
    _files(tmp_path, ["audio/1-100032-A-0.wav", "audio/5-9032-A-36.wav"])
    catalog = _list("esc50", tmp_path)
    assert catalog.class_names == ("dog", "vacuum cleaner")
    assert (catalog.folds, catalog.modalities) == (5, ("audio",))
    found = [(i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]]
    assert found == [
        ("audio/1-100032-A-0.wav", 0, (2, 3, 4, 5), (1,)),
        ("audio/5-9032-A-36.wav", 1, (1, 2, 3, 4), (5,)),
    ]


def _fsd50k(folder) -> str:
    _write(
        folder,
        {
            "FSD50K.ground_truth/vocabulary.csv": (
                "0,Accelerating_and_revving,/m/07q2z82\n1,Accordion,/m/0mkg\n2,Music,/m/04rlf\n"
            ),
            "FSD50K.ground_truth/dev.csv": (
                "fname,labels,mids,split\n"
                '64760,"Music,Accordion","/m/04rlf,/m/0mkg",train\n'
                "16399,Accordion,/m/0mkg,val\n"
            ),
            "FSD50K.ground_truth/eval.csv": "fname,labels,mids\n37199,Music,/m/04rlf\n",
        },
    )
    return _files(
        folder,
        [
            "FSD50K.dev_audio/64760.wav",
            "FSD50K.dev_audio/16399.wav",
            "FSD50K.eval_audio/37199.wav",
        ],
    )


def test_fsd50k(tmp_path):
    catalog = _list("fsd50k", _fsd50k(tmp_path))
    assert catalog.class_names == ("Accelerating_and_revving", "Accordion", "Music")
    assert catalog.multi_label
    found = {s: [(i.path, i.labels) for i in items] for s, items in catalog.splits.items()}
    assert found == {
        "train": [("FSD50K.dev_audio/64760.wav", (1, 2))],
        "validation": [("FSD50K.dev_audio/16399.wav", (1,))],
        "eval": [("FSD50K.eval_audio/37199.wav", (2,))],
    }
    assert catalog.min_seconds == 0  # its shortest files last 0.3 s


def test_fsd50k_faults(tmp_path):
    _fsd50k(tmp_path)
    _write(tmp_path, {"FSD50K.ground_truth/eval.csv": "fname,labels,mids\n1,Noise,/m/x\n"})
    with pytest.raises(UserError, match="lacks 'Noise'"):
        _list("fsd50k", tmp_path)
    dev = tmp_path / "FSD50K.ground_truth" / "dev.csv"
    dev.write_text("fname,labels,mids,split\n1,Music,/m/04rlf,other\n")
    with pytest.raises(UserError, match="split is 'other'"):
        _list("fsd50k", tmp_path)


def test_spoken_recordings(tmp_path):
    names = ["7_ann_0.wav", "0_zoe_12.wav", "1_ann_3.wav"]
    _files(tmp_path, [f"recordings/{name}" for name in names] + ["README.md", "notes.wav"])
    catalog = _list("spoken_recordings", tmp_path)
    assert (catalog.folds, catalog.class_names[7]) == (2, "seven")
    found = {i.id: (i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]}
    assert found == {
        "7_ann_0.wav": ("recordings/7_ann_0.wav", 7, (2,), (1,)),
        "1_ann_3.wav": ("recordings/1_ann_3.wav", 1, (2,), (1,)),
        "0_zoe_12.wav": ("recordings/0_zoe_12.wav", 0, (1,), (2,)),
    }
    with pytest.raises(UserError, match="of 1 speakers"):
        _list("spoken_recordings", _files(tmp_path / "alone", ["1_ann_3.wav"]))
    _files(tmp_path, ["copy/0_zoe_12.wav"])
    with pytest.raises(UserError, match=r"two files for 0_zoe_12\.wav, copy/"):
        _list("spoken_recordings", tmp_path)


def test_a_source_that_has_its_lists_is_walked_once(tmp_path, monkeypatch):
    walked: list[str] = []
    walk = storage.walk

    def count(folder):
        walked.append(folder)
        return walk(folder)

    monkeypatch.setattr(storage, "walk", count)
    _list("fsd50k", _fsd50k(tmp_path))
    assert walked == [str(tmp_path)]


def test_shards_that_are_built_among_the_files_are_none_of_them(tmp_path):
    shards = [f"shards/a-all.tfrecord-0000{i}-of-00002" for i in (0, 1)]
    _files(tmp_path, ["a.tfrecord-x/1.wav", *shards, f"{shards[0]}.index", f"{shards[1]}.7.tmp"])
    tree = SourceTree(str(tmp_path))
    assert tree.by_stem() == {"1": "a.tfrecord-x/1.wav"}
    assert tree.by_tail() == {"a.tfrecord-x/1.wav": "a.tfrecord-x/1.wav"}


def test_every_item_has_an_id_of_its_own(tmp_path):
    makers = {
        "kinetics400": _kinetics, "kinetics_sound": _kinetics, "audioset": _audioset,
        "ucf101": _ucf101, "hmdb51": _hmdb51, "fsd50k": _fsd50k,
    }  # fmt: skip
    for name, make in makers.items():
        for items in _list(name, make(tmp_path / name)).splits.values():
            assert len({i.id for i in items}) == len(items)
