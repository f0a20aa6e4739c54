"""Shards of small benchmarks, built from files in their official layout and lists."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import media_files
from random_parameters import random_student

from data_pipelines.build import __main__ as build
from xkd_jax.config.evaluation import ClipsConfig, EvalConfig, EvalDataConfig, SvmConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.training.checkpoints.checkpoint import Checkpoints


def checkpoint(folder, config):
    """Writes a checkpoint of step 7; the student's parameters differ from the teacher's."""
    state = TrainState(
        step=jnp.int32(7),
        student=jax.tree.map(jnp.asarray, random_student(config, 0)),
        teacher=jax.tree.map(
            jnp.asarray, teacher_counterpart(random_student(config, 1), config.architecture)
        ),
        centers={},
        optimizer={"count": jnp.zeros(())},
    )
    with Checkpoints(folder / "checkpoints", config, records=8, data_digest="") as checkpoints:
        checkpoints.save(7, state)
        checkpoints.wait()
    return folder


def evaluation(checkpoint, shards, **changes):
    """An evaluation of three folds, on two test clips, in batches of 8."""
    base = EvalConfig(
        benchmark="toy",
        checkpoint=str(checkpoint),
        batch_size=8,
        clips=ClipsConfig(train=3, test=2, crops=1),
        svm=SvmConfig(costs=(1e-3, 1e-1)),
        data=EvalDataConfig(dir=shards, train_split="all", folds=(1, 2, 3), threads=2),
        mesh=MeshConfig(),
    )
    return dataclasses.replace(base, **changes)


def _build(name, source, out, *options):
    arguments = [
        f"--dataset={name}", f"--source={source}", f"--output={out}", "--workers=1",
        "--short_side=16", "--mels=16", *options,
    ]  # fmt: skip
    assert build.main(arguments) == 0
    return str(out)


def esc50(source):
    """Five folds of two sounds that differ in pitch; the targets are not in order."""
    (source / "audio").mkdir()
    (source / "meta").mkdir()
    rows = [(f"{k}-{take}-A-{t}.wav", k, t) for k in range(1, 6) for take in "ab" for t in (7, 3)]
    for name, fold, target in rows:
        hertz = 20.0 * fold + (300 if target == 7 else 2500)
        sound = media_files.tone(0.6, 16000, hertz) * (0.5 + 0.1 * fold)
        media_files.write(source / "audio" / name, sound=sound, sample_rate=16000)
    lines = [f"{name},{fold},{t},{'low' if t == 7 else 'high_one'},x,x,A" for name, fold, t in rows]
    header = "filename,fold,target,category,esc10,src_file,take"
    (source / "meta" / "esc50.csv").write_text("\n".join([header, *lines]))
    return _build("esc50", source, source / "shards")


def own(source):
    """4 low and 5 high sounds, of which a fifth of each class is held out."""
    for name, hertz, number in (("low", 100.0, 4), ("high", 2500.0, 5)):
        (source / name).mkdir(parents=True)
        for i in range(number):
            sound = media_files.tone(0.6, 16000, hertz + 10 * i)
            media_files.write(source / name / f"{i}.wav", sound=sound, sample_rate=16000)
    out = source.with_name("own_shards")
    return _build("folder", source, out, "--modalities=audio", "--hold_out=0.2")


def ucf101(source):
    """Six videos of two classes in three folds; each video is one gray, lighter in class two."""
    lists = source / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Dark\n2 Light\n")
    paths = [f"{name}/v_{name}_g0{k}_c01.avi" for k in (1, 2, 3) for name in ("Dark", "Light")]
    for number, path in enumerate(paths):
        (source / path).parent.mkdir(exist_ok=True)
        levels = [(40, 180)[number % 2] + 4 * number + i for i in range(36)]
        media_files.write(source / path, media_files.gray_frames(levels, 48, 32))
    for k in (1, 2, 3):
        test = [p for p in paths if f"g0{k}" in p]
        train = [f"{p} {1 + ('Light' in p)}" for p in paths if p not in test]
        (lists / f"trainlist0{k}.txt").write_text("\n".join(train))
        (lists / f"testlist0{k}.txt").write_text("\n".join(test))
    return _build("ucf101", source, source / "shards")


def kinetics_sound(source):
    """Two of the 32 classes, four training and two validation videos each: dark and low, or not."""
    header = "label,youtube_id,time_start,time_end,split"
    for split, file, numbers in (("train", "train", range(8)), ("val", "val", range(8, 12))):
        rows = []
        for number in numbers:
            label = ("singing", "bowling")[number % 2]
            (source / label).mkdir(exist_ok=True)
            levels = [(40, 180)[number % 2] + 3 * number + i % 8 for i in range(36)]
            media_files.write(
                source / label / f"id{number}_000001_000011.avi",
                media_files.gray_frames(levels, 48, 32),
                sound=media_files.tone(1.2, 16000, (300, 2500)[number % 2] + 10.0 * number),
                sample_rate=16000,
            )
            rows.append(f"{label},id{number},1,11,{split}")
        (source / f"{file}.csv").write_text("\n".join([header, *rows]))
    return _build("kinetics_sound", source, source / "shards")


def fsd50k(source):
    """Low and high sounds, and both, in the splits train and eval."""
    lists = source / "FSD50K.ground_truth"
    lists.mkdir()
    (lists / "vocabulary.csv").write_text("0,High,/m/a\n1,Low,/m/b\n")
    kinds = {"High": (2500,), "Low": (300,), "Low,High": (300, 2500)}
    rows = [(f"{part}{i}", part, labels) for part in ("dev", "eval") for i in range(2)
            for labels in kinds]  # fmt: skip
    rows = [(str(number), part, labels) for number, (_, part, labels) in enumerate(rows)]
    for name, part, labels in rows:
        folder = source / f"FSD50K.{part}_audio"
        folder.mkdir(exist_ok=True)
        sound = sum(media_files.tone(0.6, 16000, h + 10.0 * int(name)) for h in kinds[labels])
        media_files.write(folder / f"{name}.wav", sound=0.5 * sound, sample_rate=16000)
    dev = [f'{name},"{labels}",x,train' for name, part, labels in rows if part == "dev"]
    held = [f'{name},"{labels}",x' for name, part, labels in rows if part == "eval"]
    (lists / "dev.csv").write_text("\n".join(["fname,labels,mids,split", *dev]))
    (lists / "eval.csv").write_text("\n".join(["fname,labels,mids", *held]))
    return _build("fsd50k", source, source / "shards")
