"""The smaller benchmarks: official folds and splits, class order."""

from __future__ import annotations

import catalog_trees as trees
import pytest

from data_pipelines.errors import UserError


def test_ucf101_has_official_folds_and_order_of_classes(tmp_path):
    catalog = trees.listed("ucf101", trees.ucf101(tmp_path))
    assert catalog.class_names == ("ApplyEyeMakeup", "Archery", "Billiards")
    assert (catalog.folds, catalog.modalities) == (3, ("video",))
    found = {i.label: (i.path, i.train_folds, i.test_folds) for i in catalog.splits["all"]}
    assert found == {
        0: ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", (1,), (2,)),
        1: ("UCF-101/Archery/v_Archery_g01_c01.avi", (2, 3), (1,)),
        2: ("UCF-101/Billiards/v_Billiards_g01_c01.avi", (), (1, 3)),
    }


def test_ucf101_lists_with_a_fault_are_refused(tmp_path):
    trees.ucf101(tmp_path)
    trees.write(tmp_path, {"ucfTrainTestlist/classInd.txt": "1 Archery\n"})
    with pytest.raises(UserError, match="lacks the class of ApplyEyeMakeup"):
        trees.listed("ucf101", tmp_path)
    (tmp_path / "ucfTrainTestlist" / "testlist02.txt").unlink()
    with pytest.raises(UserError, match=r"no testlist02\.txt"):
        trees.listed("ucf101", tmp_path)


def test_hmdb51_has_official_folds(tmp_path):
    catalog = trees.listed("hmdb51", trees.hmdb51(tmp_path))
    assert catalog.class_names == ("brush_hair", "cartwheel")
    found = [(i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]]
    assert found == [
        ("brush_hair/A_brush_hair_h_nm.avi", 0, (1,), (2,)),
        ("brush_hair/B b!_brush_hair#1.avi", 0, (2, 3), (1,)),
        ("cartwheel/A_cartwheel_h_nm.avi", 1, (1, 2), (3,)),
        ("cartwheel/B b!_cartwheel#1.avi", 1, (), ()),
    ]


def test_hmdb51_lists_with_a_fault_are_refused(tmp_path):
    trees.hmdb51(tmp_path)
    lists = tmp_path / "testTrainMulti_7030_splits"
    (lists / "cartwheel_test_split2.txt").write_text("a.avi 3\n")
    with pytest.raises(UserError, match="not 'file n'"):
        trees.listed("hmdb51", tmp_path)
    (lists / "cartwheel_test_split2.txt").unlink()
    with pytest.raises(UserError, match=r"cartwheel_test_split2\.txt is missing"):
        trees.listed("hmdb51", tmp_path)


def test_esc50_has_five_folds(tmp_path):
    trees.write(
        tmp_path,
        {
            "meta/esc50.csv": (
                "filename,fold,target,category,esc10,src_file,take\n"
                "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
                "5-9032-A-36.wav,5,36,vacuum_cleaner,False,9032,A\n"
            )
        },
    )
    trees.files(tmp_path, ["audio/1-100032-A-0.wav", "audio/5-9032-A-36.wav"])
    catalog = trees.listed("esc50", tmp_path)
    assert catalog.class_names == ("dog", "vacuum cleaner")
    assert (catalog.folds, catalog.modalities) == (5, ("audio",))
    found = [(i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]]
    assert found == [
        ("audio/1-100032-A-0.wav", 0, (2, 3, 4, 5), (1,)),
        ("audio/5-9032-A-36.wav", 1, (1, 2, 3, 4), (5,)),
    ]


def test_fsd50k_has_official_splits_and_all_labels(tmp_path):
    catalog = trees.listed("fsd50k", trees.fsd50k(tmp_path))
    assert catalog.class_names == ("Accelerating_and_revving", "Accordion", "Music")
    assert catalog.multi_label
    found = {s: [(i.path, i.labels) for i in items] for s, items in catalog.splits.items()}
    assert found == {
        "train": [("FSD50K.dev_audio/64760.wav", (1, 2))],
        "validation": [("FSD50K.dev_audio/16399.wav", (1,))],
        "eval": [("FSD50K.eval_audio/37199.wav", (2,))],
    }
    assert catalog.min_seconds == 0  # its shortest files have 0.3 s


def test_fsd50k_lists_with_a_fault_are_refused(tmp_path):
    trees.fsd50k(tmp_path)
    trees.write(tmp_path, {"FSD50K.ground_truth/eval.csv": "fname,labels,mids\n1,Noise,/m/x\n"})
    with pytest.raises(UserError, match="lacks 'Noise'"):
        trees.listed("fsd50k", tmp_path)
    dev = tmp_path / "FSD50K.ground_truth" / "dev.csv"
    dev.write_text("fname,labels,mids,split\n1,Music,/m/04rlf,other\n")
    with pytest.raises(UserError, match="split is 'other'"):
        trees.listed("fsd50k", tmp_path)


def test_spoken_recordings_are_divided_by_speaker(tmp_path):
    names = ["7_ann_0.wav", "0_zoe_12.wav", "1_ann_3.wav"]
    trees.files(tmp_path, [f"recordings/{name}" for name in names] + ["README.md", "notes.wav"])
    catalog = trees.listed("spoken_recordings", tmp_path)
    assert (catalog.folds, catalog.class_names[7]) == (2, "seven")
    found = {i.id: (i.path, i.label, i.train_folds, i.test_folds) for i in catalog.splits["all"]}
    assert found == {
        "7_ann_0.wav": ("recordings/7_ann_0.wav", 7, (2,), (1,)),
        "1_ann_3.wav": ("recordings/1_ann_3.wav", 1, (2,), (1,)),
        "0_zoe_12.wav": ("recordings/0_zoe_12.wav", 0, (1,), (2,)),
    }
    with pytest.raises(UserError, match="of 1 speaker: give recordings of at least two"):
        trees.listed("spoken_recordings", trees.files(tmp_path / "alone", ["1_ann_3.wav"]))
    trees.files(tmp_path, ["copy/0_zoe_12.wav"])
    with pytest.raises(UserError, match=r"two files for 0_zoe_12\.wav, copy/"):
        trees.listed("spoken_recordings", tmp_path)
