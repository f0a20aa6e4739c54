"""Lists with repeated items: repetitions are counted, contradictions are refused."""

from __future__ import annotations

import math

import catalog_trees as trees
import pytest

from data_pipelines.errors import UserError

KINETICS = "label,youtube_id,time_start,time_end,split\n"
ESC50 = "filename,fold,target,category\n"
CLASSES = 'index,mid,display_name\n0,/m/a,"A"\n1,/m/b,"B"\n'
FSD50K = {"vocabulary.csv": "0,A,/m/a\n1,B,/m/b\n", "eval.csv": "fname,labels\n9,B\n"}


def _ucf101(**changed: str) -> dict[str, str]:
    lists = {f"{use}list0{k}": "" for use in ("train", "test") for k in (1, 2, 3)}
    lists |= {"trainlist01": "A/v_1.avi 1\n", "classInd": "1 A\n2 B\n"} | changed
    return {f"{name}.txt": text for name, text in lists.items()}


def _hmdb51(first: str) -> dict[str, str]:
    return {"a_test_split1.txt": first, "a_test_split2.txt": "x.avi 1\n",
            "a_test_split3.txt": "x.avi 0\n"}  # fmt: skip


REPEATS = [
    ("kinetics400", {"train.csv": KINETICS + "a,x,0,10,train\na,x,0,10,train\n"}),
    ("kinetics400", {"train.csv": KINETICS + 'a b,x,0,10,train\n"a_b",x,0.0,10.0,train\n'}),
    ("kinetics400", {"train.csv": KINETICS + "a,x,0,10,train\n",
                     "test.csv": KINETICS + "a,x,0,10,train\n"}),
    ("kinetics_sound", {"train.csv": KINETICS + 2 * "singing,x,0,10,train\n"}),
    ("audioset", {"class_labels_indices.csv": CLASSES,
                  "eval_segments.csv": 'x, 0.0, 10.0, "/m/a,/m/b"\nx, 0, 10, "/m/b,/m/a"\n'}),
    ("esc50", {"esc50.csv": ESC50 + "x.wav,1,0,dog\nx.wav,1,0,dog\n"}),
    ("fsd50k", FSD50K | {"dev.csv": 'fname,labels,split\n1,"A,B",train\n1,"B,A",train\n'}),
    ("ucf101", _ucf101(trainlist01="A/v_1.avi 1\nA/v_1.avi 1\n")),
    ("ucf101", _ucf101(testlist02="A/v_1.avi\na/v_1.avi\n")),
    ("hmdb51", _hmdb51("x.avi 2 \nx.avi 2 \n")),
]  # fmt: skip


@pytest.mark.parametrize("name, lists", REPEATS)
def test_repeated_line_is_one_item_and_counted(tmp_path, name, lists):
    trees.write(tmp_path, lists)
    catalog = trees.listed(name, tmp_path)
    items = [item for split in catalog.splits.values() for item in split]
    assert len(items) == (2 if name == "fsd50k" else 1)
    assert len(set(items[0].train_folds)) == len(items[0].train_folds)
    (repeats,) = [one for one in catalog.ignored if one.what == "lines that repeat another"]
    assert repeats.count == 1
    assert repeats.example.startswith(str(tmp_path))


CONTRADICTIONS = [
    ("kinetics400", {"train.csv": KINETICS + "a,x,0,10,train\nb,x,0,10,train\n"},
     "x_000000_000010 is listed before with another label (a, now b), in", "train.csv, line 2"),
    ("kinetics400", {"train.csv": KINETICS + "a,x,0,10,train\n",
                     "val.csv": KINETICS + "a,x,0,10,validate\n"},
     "another split (train, now validation), in", "train.csv, line 2"),
    ("kinetics400", {"train.csv": KINETICS + "a,x,0,10,train\n",
                     "test.csv": "youtube_id,time_start,time_end,split\nx,0,10,train\n"},
     "another label (none, now a), in", "test.csv, line 2"),
    ("audioset", {"class_labels_indices.csv": CLASSES,
                  "eval_segments.csv": 'x, 0, 10, "/m/a"\nx, 0, 10, "/m/a,/m/b"\n'},
     "x_0_10 is listed before with another label (A, now A; B), in", "segments.csv, line 1"),
    ("audioset", {"class_labels_indices.csv": CLASSES,
                  "balanced_train_segments.csv": 'x, 0, 10, "/m/a"\n',
                  "eval_segments.csv": 'x, 0, 10, "/m/a"\n'},
     "another split (balanced_train, now eval), in", "balanced_train_segments.csv, line 1"),
    ("esc50", {"esc50.csv": ESC50 + "x.wav,1,0,dog\nx.wav,2,0,dog\n"},
     "x.wav is listed before with another fold", "esc50.csv, line 2"),
    ("esc50", {"esc50.csv": ESC50 + "x.wav,1,0,dog\nx.wav,1,1,cat\n"},
     "another label (dog, now cat)", "esc50.csv, line 2"),
    ("fsd50k", FSD50K | {"dev.csv": "fname,labels,split\n1,A,train\n1,A,val\n"},
     "another split (train, now validation)", "dev.csv, line 2"),
    ("fsd50k", FSD50K | {"dev.csv": "fname,labels,split\n9,B,train\n"},
     "another split (train, now eval)", "dev.csv, line 2"),
    ("ucf101", _ucf101(testlist01="A/v_1.avi\n"),
     "A/v_1.avi is listed before with another use (train, now test)", "trainlist01.txt, line 1"),
    ("hmdb51", _hmdb51("x.avi 1\nx.avi 2\n"),
     "x.avi is listed before with another use (1, now 2)", "a_test_split1.txt, line 1"),
]  # fmt: skip


@pytest.mark.parametrize("name, lists, fault, other", CONTRADICTIONS)
def test_contradictory_lines_are_both_named(tmp_path, name, lists, fault, other):
    trees.write(tmp_path, lists)
    with pytest.raises(UserError) as error:
        trees.listed(name, tmp_path)
    message = str(error.value)
    assert fault in message
    assert f"{other}; correct" in message
    assert ", line" in message.split(fault)[0]


@pytest.mark.parametrize("untrimmed", [False, True])
def test_segments_of_one_recording_are_separate_items(tmp_path, untrimmed):
    trees.write(tmp_path, {"train.csv": KINETICS + "a,x,0,10,train\nb,x,20,30,train\n"})
    trees.files(tmp_path, ["x.mp4", "x_000000_000010.mp4", "x_000020_000030.mp4"])
    catalog = trees.listed("kinetics400", tmp_path, untrimmed=untrimmed)
    assert [(i.id, i.path) for i in catalog.splits["train"]] == [
        ("x_000000_000010", "x.mp4" if untrimmed else "x_000000_000010.mp4"),
        ("x_000020_000030", "x.mp4" if untrimmed else "x_000020_000030.mp4"),
    ]


def test_file_matching_two_segments_is_not_used(tmp_path):
    """`{ytid}.mp4` identifies a segment only if its recording has a single one."""
    rows = 'x, 0, 10, "/m/a"\nx, 10, 20, "/m/b"\ny, 0, 10, "/m/a"\n'
    trees.write(tmp_path, {"class_labels_indices.csv": CLASSES, "eval_segments.csv": rows})
    trees.files(tmp_path, ["x.mp4", "Yy.mp4"])
    catalog = trees.listed("audioset", tmp_path)
    assert [i.path for i in catalog.splits["eval"]] == [
        "x_000000_000010.mp4", "x_000010_000020.mp4", "Yy.mp4",
    ]  # fmt: skip
    assert ("files that match several lines", 1) in [(i.what, i.count) for i in catalog.ignored]
    whole = trees.listed("audioset", tmp_path, untrimmed=True)
    assert [(i.path, i.end) for i in whole.splits["eval"]][:2] == [("x.mp4", 10), ("x.mp4", 20)]
    assert all(math.isinf(i.end) for i in catalog.splits["eval"])
