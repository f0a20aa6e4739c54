"""Miniatures of benchmarks, from their original layout to batches."""

import dataclasses

import media_files
import numpy as np
import pytest
import toy_shards

from data_pipelines.build import __main__ as build
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

CONFIG = dataclasses.replace(Config(), batch_size=2)


def _build(name, source, output, *options) -> None:
    command = [f"--dataset={name}", f"--source={source}", f"--output={output}", "--workers=1"]
    assert build.main([*command, *options]) == 0


def test_batches_of_an_esc50_fold_are_its_recordings(tmp_path):
    source = tmp_path / "ESC-50"
    rows = [(f"{fold}-{i}-A-{i}.wav", fold, i) for fold in (1, 2) for i in (0, 1)]
    for name, _, target in rows:
        (source / "audio").mkdir(parents=True, exist_ok=True)
        sound = media_files.tone(1.0, 44100, 300.0 * (1 + target))
        media_files.write(source / "audio" / name, sound=sound)
    (source / "meta").mkdir()
    lines = [f"{name},{fold},{target},class{target},False,x,A" for name, fold, target in rows]
    header = "filename,fold,target,category,esc10,src_file,take"
    (source / "meta" / "esc50.csv").write_text("\n".join([header, *lines]))
    _build("esc50", source, tmp_path / "out")
    dataset = open_dataset(CONFIG, str(tmp_path / "out"), "all", ("audio",))
    assert dataset.metadata.class_names == ("class0", "class1")
    index = toy_shards.index(dataset)
    test, train = index.fold_records(1, "test"), index.fold_records(1, "train")
    assert {dataset[int(i)].id for i in test} == {"1-0-A-0.wav", "1-1-A-1.wav"}
    assert set(train) | set(test) == set(range(4))
    (batch,) = pipeline.eval_batches(CONFIG, dataset, modalities=("audio",), records=test)
    assert batch["audio"]["global"]["log_mel"].shape == (2, 80, 448)
    assert sorted(batch["label"].tolist()) == [0, 1]
    loudest = batch["audio"]["global"]["log_mel"][:, :, 50].argmax(axis=1)
    assert (np.argsort(loudest) == np.argsort(batch["label"])).all()


def test_short_sounds_of_fsd50k_have_all_their_labels(tmp_path):
    source = tmp_path / "FSD50K"
    lists = source / "FSD50K.ground_truth"
    lists.mkdir(parents=True)
    (lists / "vocabulary.csv").write_text("0,Bark,/m/a\n1,Dog,/m/b\n2,Rain,/m/c\n")
    (lists / "dev.csv").write_text('fname,labels,mids,split\n1,"Dog,Bark","/m/b,/m/a",train\n')
    (lists / "eval.csv").write_text("fname,labels,mids\n2,Rain,/m/c\n3,Rain,/m/c\n")
    for part, name in (("dev", "1"), ("eval", "2")):
        (source / f"FSD50K.{part}_audio").mkdir()
        sound = media_files.tone(0.3, 44100)
        media_files.write(source / f"FSD50K.{part}_audio" / f"{name}.wav", sound=sound)
    _build("fsd50k", source, tmp_path / "out")
    dataset = open_dataset(CONFIG, str(tmp_path / "out"), "train", ("audio",))
    batch = next(pipeline.eval_batches(CONFIG, dataset, modalities=("audio",)))
    assert batch["labels"][0].tolist() == [1, 1, 0]
    held = open_dataset(CONFIG, str(tmp_path / "out"), "eval", ("audio",))
    assert [held[i].id for i in range(len(held))] == ["2"]
    assert held.metadata.left_out == {"missing": 1}


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_folds_of_silent_videos_are_read_in_several_clips(tmp_path, name):
    source = tmp_path / "videos"
    paths = [f"class{i % 2}/v_{i}.avi" for i in range(4)]
    for path in paths:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        media_files.write(source / path, media_files.gray_frames([60] * 30))
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 class0\n2 class1\n")
    for k in (1, 2, 3):
        test = paths[k - 1]
        train = [p for p in paths if p != test]
        lines = [f"{p} {1 + int(p[5])}" for p in train]
        (lists / f"trainlist0{k}.txt").write_text("\n".join(lines))
        (lists / f"testlist0{k}.txt").write_text(test)
        for label in ("class0", "class1"):
            files = [p for p in paths if p.startswith(label)]
            uses = [f"{p.split('/')[1]} {2 if p == test else 1}" for p in files]
            (lists / f"{label}_test_split{k}.txt").write_text("\n".join(uses))
    _build(name, source, tmp_path / "out", f"--lists={lists}")
    dataset = open_dataset(CONFIG, str(tmp_path / "out"), "all", ("video",))
    index = toy_shards.index(dataset)
    for k in (1, 2, 3):
        held = index.fold_records(k, "test")
        assert [dataset[int(i)].path for i in held] == [paths[k - 1]]
        assert len(index.fold_records(k, "train")) == 3
    batches = list(pipeline.eval_batches(CONFIG, dataset, clips=3, modalities=("video",)))
    assert sum(int(b["valid"].sum()) for b in batches) == 12
    assert batches[0]["video"]["global"]["frames"].shape == (2, 32, 128, 128, 3)
