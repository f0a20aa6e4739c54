import dataclasses
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from random_parameters import random_student

from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import author_weights
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.parity.__main__ import main
from xkd_jax.parity.comparison import relative_errors, worst
from xkd_jax.parity.golden_file import GoldenFile
from xkd_jax.parity.step_case import Case
from xkd_jax.parity.steps import TOLERANCES

GOLDEN = pathlib.Path(__file__).parents[3] / "shared" / "golden"


def roots(config: Config):
    student = random_student(config)
    return {
        "student": student,
        "teacher": teacher_counterpart(student, config.architecture),
        "centers": {d: np.zeros(48, np.float32) for d in author_weights.CENTERS.values()},
    }


@pytest.mark.parametrize("variant", ["xkd", "mas", "mats"])
def test_export_then_load_returns_same_parameters(small, variant):
    config = dataclasses.replace(small, model=dataclasses.replace(small.model, variant=variant))
    tree = roots(config)
    named = author_weights.export(tree, config.architecture)
    back = author_weights.load(named, {}, config.architecture)
    again = author_weights.export(back, config.architecture)
    assert named.keys() == again.keys()
    for name, value in named.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    shared = (
        named["vid_student.backbone.encoder.blocks.1.attn.qkv.weight"]
        == named["aud_student.backbone.encoder.blocks.1.attn.qkv.weight"]
    ).all()
    assert shared == (variant != "xkd")


def test_export_of_one_modality_has_no_names_of_the_other(small):
    both = author_weights.export(roots(small), small.architecture)
    alone = dataclasses.replace(small, modalities=("audio",))
    named = author_weights.export(roots(alone), alone.architecture)
    assert named.keys() == {name for name in both if name.startswith("aud_")}
    back = author_weights.load(named, {}, alone.architecture)
    jax.tree.map(np.testing.assert_array_equal, back["student"], random_student(alone))


def test_load_refuses_missing_and_unknown_tensors_by_name(small):
    named = author_weights.export(roots(small), small.architecture)
    del named["vid_ae.mask_token"]
    with pytest.raises(UserError, match=r"no tensor vid_ae\.mask_token"):
        author_weights.load(named, {}, small.architecture)
    named = author_weights.export(roots(small), small.architecture) | {
        "vid_student.backbone.fc.weight": np.ones(1)
    }
    with pytest.raises(UserError, match=r"vid_student\.backbone\.fc\.weight"):
        author_weights.load(named, {}, small.architecture)


def test_load_refuses_head_gain_other_than_one(small):
    named = author_weights.export(roots(small), small.architecture)
    gain = "vid_student.head.last_layer.weight_g"
    author_weights.load(named | {gain: np.ones((48, 1))}, {}, small.architecture)
    with pytest.raises(UserError, match="gain is fixed at 1"):
        author_weights.load(named | {gain: np.full((48, 1), 2.0)}, {}, small.architecture)


def test_load_accepts_alias_of_shared_tensor(small):
    named = author_weights.export(roots(small), small.architecture)
    alias, canonical = "aud_student.head.mlp.1.bias", "somewhere.else"
    moved = {canonical if k == alias else k: v for k, v in named.items()}
    tree = author_weights.load(moved, {alias: canonical}, small.architecture)
    np.testing.assert_array_equal(tree["student"]["heads"]["audio"]["norm"]["bias"], named[alias])


def test_file_that_is_not_a_case_is_refused(tmp_path, capsys):
    path = tmp_path / "case.npz"
    path.write_bytes(b"not a zip")
    assert main([str(path)]) == 2
    assert "is not a golden case" in capsys.readouterr().err
    assert main([str(tmp_path / "absent.npz")]) == 2


@pytest.mark.parametrize(
    "meta",
    [
        b"no JSON",
        b"[1, 2]",
        b"{}",
        b'{"variant": "xkd"}',
        b'{"variant": 3, "video": [], "a": null}',
    ],
)
def test_incomplete_description_is_refused_in_one_sentence(tmp_path, capsys, meta):
    path = tmp_path / "case.npz"
    np.savez(path, meta=np.frombuffer(meta, np.uint8), losses=np.zeros((2, 3)))
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is a damaged golden file" in error


def test_errors_are_relative_to_largest_entry_and_infinite_if_missing():
    expected = {"a": np.asarray([1.0, -4.0]), "b": np.asarray([1.0])}
    found = relative_errors(expected, {"a": np.asarray([1.0, -4.4])})
    np.testing.assert_allclose(found["a"], 0.1)
    assert np.isinf(found["b"])
    assert not worst("outputs", 1.0, {"a": float("nan")}).passed


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden cases beside the project")
def test_unknown_variant_is_refused(tmp_path, capsys):
    case = Case.of(GoldenFile.read(str(GOLDEN / "xkd_paper.npz")))
    meta = np.frombuffer(json.dumps(case.meta | {"variant": "x"}).encode(), np.uint8)
    np.savez(tmp_path / "case.npz", **case.arrays | {"meta": meta})
    assert main([str(tmp_path / "case.npz")]) == 2
    assert "model.variant is 'x'" in capsys.readouterr().err


def spoiled(case, folder, **changed):
    """Writes the case with changed arrays and returns its path."""
    np.savez(folder / "spoiled.npz", **case.arrays | changed)
    return str(folder / "spoiled.npz")


@pytest.mark.heavy
@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden cases beside the project")
def test_golden_case_with_one_changed_loss_fails_there_alone(tmp_path, capsys):
    case = Case.of(GoldenFile.read(str(GOLDEN / "xkd_paper.npz")))
    losses = case.arrays["losses"].copy()
    losses[0, 0] *= 1 + 3 * TOLERANCES["losses at step 0"]
    meta = np.frombuffer(json.dumps(case.meta).encode(), np.uint8)
    assert main([spoiled(case, tmp_path, meta=meta, losses=losses)]) == 1
    printed = capsys.readouterr().out
    assert re.findall("FAIL (.*?)  ", printed) == ["losses at step 0"]
    assert printed.count("ok  ") == len(TOLERANCES) - 1


@pytest.mark.heavy
@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden cases beside the project")
def test_golden_case_passes():
    assert main([str(GOLDEN / "xkd_paper.npz")]) == 0


@pytest.mark.heavy
@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden cases beside the project")
def test_golden_case_with_other_temperature_fails(tmp_path, capsys):
    case = Case.of(GoldenFile.read(str(GOLDEN / "xkd_paper.npz")))
    meta = json.dumps(case.meta | {"student_temp": 0.11}).encode()
    assert main([spoiled(case, tmp_path, meta=np.frombuffer(meta, np.uint8))]) == 1
    assert "FAIL losses at step 0" in capsys.readouterr().out
