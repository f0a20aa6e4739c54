"""Exported encoders are read back bit for bit, and PyTorch computes the same features."""

import json
import shutil

import numpy as np
import pytest
from other_encoders import CASES, load_case
from result_contents import result_content

import xkd_jax
from data_pipelines.errors import UserError


@pytest.fixture(scope="module")
def model(checkpoint):
    return xkd_jax.load(checkpoint)


def test_exported_run_is_read_back_bit_for_bit(model, tmp_path):
    xkd_jax.export(model, tmp_path / "out")
    for source in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        back = xkd_jax.load(source)
        assert back.digest == model.digest
        assert back.config == model.config
        assert (back.origin.step, back.origin.network) == (7, "student")
        for name, tensor in model.tensors().items():
            np.testing.assert_array_equal(back.tensors()[name], tensor)
    assert (back.compute_dtype, back.short_side) == (model.compute_dtype, model.short_side)


def test_equal_models_give_equal_bytes(model, tmp_path):
    for name in ("1", "2"):
        xkd_jax.export(model, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == [
        "README.md", "config.json", "model.safetensors", "modeling_xkd.py",
        "preprocessor_config.json",
    ]  # fmt: skip
    for name in files:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_card_of_a_run_has_its_results(model, checkpoint, tmp_path):
    content = result_content(
        benchmark="toy|a", protocol="knn", value=50.54, chance=10.0, data={"name": "toys"},
        checkpoint={"source": str(checkpoint), "step": 7},
    )  # fmt: skip
    others = ({"network": "teacher"}, {"checkpoint": content["checkpoint"] | {"step": 8}})
    folders = [checkpoint.with_name(f"{checkpoint.name}_{n}") for n in range(1 + len(others))]
    try:
        for folder, changes in zip(folders, ({}, *others), strict=True):
            folder.mkdir()
            (folder / "result.json").write_text(json.dumps(content | changes))
        xkd_jax.export(model, tmp_path)
    finally:
        for folder in folders:
            shutil.rmtree(folder)
    card = (tmp_path / "README.md").read_text()
    assert r"| toy\|a | knn | video | 100% | 50.5 top-1 | 10.0 |" in card
    assert card.count("| knn |") == 1
    header = card.split("---")[1].splitlines()
    metrics = json.loads(header[-1].removeprefix("  - "))["metrics"]
    assert metrics == [{"type": "accuracy", "name": "top-1, knn", "value": 50.54}]


@pytest.mark.parametrize("name", CASES)
def test_exported_imports_keep_their_license(tmp_path, name):
    model, case = load_case(tmp_path, name)
    xkd_jax.export(model, tmp_path / "out")
    back = xkd_jax.load(tmp_path / "out", modalities=(case.modality,))
    assert back.config[case.modality] == model.config[case.modality]
    assert back.license == model.license
    assert model.license in (tmp_path / "out" / "README.md").read_text()
    for tensor, value in back.tensors().items():
        np.testing.assert_array_equal(value, model.tensors()[tensor])


def test_the_authors_files_are_read_as_theirs(model, tmp_path, small):
    xkd_jax.export(model, tmp_path, layout="authors")
    sizes = {
        "heads": 2,
        "video": {name: getattr(small.video, name) for name in ("frames", "size", "patch")},
        "audio": {name: getattr(small.audio, name) for name in ("mels", "columns", "patch")},
    }
    names = ("vid_student.pth.tar", "aud_student.pth.tar")
    back = xkd_jax.load([tmp_path / name for name in names], **sizes)
    for name, tensor in model.tensors().items():
        np.testing.assert_array_equal(back.tensors()[name], tensor)


def test_what_can_not_be_exported_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="give 'transformers' or 'authors'"):
        xkd_jax.export(model, tmp_path, layout="onnx")
    other, _ = load_case(tmp_path, "audiomae")
    with pytest.raises(UserError, match=r"not XKD's, .*layout='transformers'"):
        xkd_jax.export(other, tmp_path / "out", layout="authors")
    assert not (tmp_path / "out").exists()


def test_wrong_description_is_refused(model, tmp_path):
    xkd_jax.export(model, tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for old, new, words in (
        (b'\\"depth\\": 2', b'\\"depth\\": 3', "has no tensor"),
        (b'\\"depth\\": 2', b'\\"depth\\":99', "fewer blocks than it states"),
        (b'\\"layout\\": 1', b'\\"layout\\": 9', "another version"),
        (b'\\"layout\\": 1', b'\\"layers\\": 1', "can't be used"),
        (b'\\"norm\\": \\"tokens\\"', b'\\"norm\\": \\"tokenz\\"', "give one of"),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(UserError, match=words):
            xkd_jax.load(path)
