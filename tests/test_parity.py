import json
import pathlib

import numpy as np
import pytest
from conftest import random_student

from xkd_jax import parity, reference
from xkd_jax.config import Config
from xkd_jax.errors import UserError
from xkd_jax.networks.student import teacher_counterpart

GOLDEN = pathlib.Path(__file__).parents[2] / "shared" / "golden"


def roots(config: Config):
    student = random_student(config)
    return {
        "student": student,
        "teacher": teacher_counterpart(student, config),
        "centres": {d: np.zeros(48, np.float32) for d in reference.CENTRES.values()},
    }


@pytest.mark.parametrize("variant", ["xkd", "mas", "mats"])
def test_parameters_survive_the_authors_names(small, variant):
    import dataclasses

    config = dataclasses.replace(small, model=dataclasses.replace(small.model, variant=variant))
    tree = roots(config)
    named = reference.export(tree, config)
    back = reference.load(named, {}, config)
    again = reference.export(back, config)
    assert named.keys() == again.keys()
    for name, value in named.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    shared = (
        named["vid_student.backbone.encoder.blocks.1.attn.qkv.weight"]
        == named["aud_student.backbone.encoder.blocks.1.attn.qkv.weight"]
    ).all()
    assert shared == (variant != "xkd")


def test_missing_and_foreign_tensors_are_named(small):
    named = reference.export(roots(small), small)
    del named["vid_ae.mask_token"]
    with pytest.raises(UserError, match=r"no tensor vid_ae\.mask_token"):
        reference.load(named, {}, small)
    named = reference.export(roots(small), small) | {"vid_student.backbone.fc.weight": np.ones(1)}
    with pytest.raises(UserError, match=r"vid_student\.backbone\.fc\.weight"):
        reference.load(named, {}, small)


def test_a_gain_other_than_one_is_refused(small):
    named = reference.export(roots(small), small)
    gain = "vid_student.head.last_layer.weight_g"
    reference.load(named | {gain: np.ones((48, 1))}, {}, small)
    with pytest.raises(UserError, match="gain is fixed at 1"):
        reference.load(named | {gain: np.full((48, 1), 2.0)}, {}, small)


def test_one_name_of_a_shared_tensor_is_enough(small):
    named = reference.export(roots(small), small)
    alias, canonical = "aud_student.head.mlp.1.bias", "somewhere.else"
    moved = {canonical if k == alias else k: v for k, v in named.items()}
    tree = reference.load(moved, {alias: canonical}, small)
    np.testing.assert_array_equal(tree["student"]["heads"]["audio"]["norm"]["bias"], named[alias])


def test_a_file_that_is_no_case_is_refused(tmp_path, capsys):
    path = tmp_path / "case.npz"
    path.write_bytes(b"not a zip")
    assert parity.main([str(path)]) == 2
    assert "is no golden case" in capsys.readouterr().err
    assert parity.main([str(tmp_path / "absent.npz")]) == 2


def test_errors_are_relative_to_the_largest_entry_and_nothing_is_skipped():
    expected = {"a": np.asarray([1.0, -4.0]), "b": np.asarray([1.0])}
    found = parity._largest(expected, {"a": np.asarray([1.0, -4.4])})
    np.testing.assert_allclose(found["a"], 0.1)
    assert np.isinf(found["b"])
    assert not parity._worst("outputs", {"a": float("nan")}).passed


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden cases beside the project")
def test_golden_case_passes_and_a_changed_one_fails(tmp_path, capsys):
    path = GOLDEN / "xkd_paper.npz"
    assert parity.main([str(path)]) == 0
    case = parity.Case.read(str(path))
    meta = case.meta | {"student_temp": 0.11}
    spoiled = case.arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}
    np.savez(tmp_path / "spoiled.npz", **spoiled)
    assert parity.main([str(tmp_path / "spoiled.npz")]) == 1
    assert "FAIL losses at step 0" in capsys.readouterr().out
