"""Loading of runs and files, and outputs of encoders."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch_files
from numpy_encoder import encode
from other_encoders import CASES, write_case
from random_parameters import random_student

import xkd_jax
from data_pipelines.errors import UserError
from data_pipelines.format import kaldi
from xkd_jax.inference import author_weights, trained_model
from xkd_jax.inference.run_checkpoint import encoders_of_run
from xkd_jax.inference.weight_files import safetensors_file


@pytest.fixture(scope="module")
def model(checkpoint):
    return xkd_jax.load(checkpoint)


def views(small, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.normal(size=(3, *small.video.global_shape, 3)).astype(np.float32),
        "audio": rng.normal(size=(3, *small.audio.global_shape)).astype(np.float32),
    }


def test_a_run_gives_tokens_cls_and_features_of_each_modality(model, small):
    params = encoders_of_run(random_student(small, 0), small.architecture)
    inputs = views(small)
    found = {
        "video": model.encode_video(inputs["video"], normalized=True),
        "audio": model.encode_audio(log_mel=inputs["audio"]),
    }
    for m, encoding in found.items():
        tokens, pooled = encode(params[m].config, params[m].params, inputs[m])
        np.testing.assert_allclose(encoding.tokens, tokens[:, 1:], atol=1e-5)
        np.testing.assert_allclose(encoding.cls, tokens[:, 0], atol=1e-5)
        np.testing.assert_allclose(encoding.pooled, pooled, atol=1e-5)
        assert encoding.tokens.dtype == encoding.pooled.dtype == np.float32
    assert (model.origin.network, model.origin.step, model.license) == ("student", 7, "")
    assert model.config["video"].view.frames == small.video.frames


def test_networks_steps_and_modalities_are_chosen(checkpoint, model, small):
    teacher = xkd_jax.load(checkpoint, network="teacher", step=7, modalities=("audio",))
    assert teacher.modalities == ("audio",)
    view = views(small)["audio"]
    other = teacher.encode_audio(log_mel=view).pooled
    assert np.abs(other - model.encode_audio(log_mel=view).pooled).max() > 1e-3
    assert teacher.digest != model.digest
    with pytest.raises(UserError, match=r"has no encoder of video: load"):
        teacher.encode_video(views(small)["video"], normalized=True)
    with pytest.raises(UserError, match="has no checkpoint of step 3: it has 7"):
        xkd_jax.load(checkpoint, step=3)


def test_loading_again_gives_the_same_model(checkpoint, model):
    assert xkd_jax.load(str(checkpoint)).digest == model.digest


@pytest.mark.parametrize("count, size", [(1, 8), (9, 16), (17, 32), (33, 40), (40, 40)])
def test_batch_is_filled_up_to_power_of_two_and_not_to_largest(model, monkeypatch, count, size):
    """Short batches are padded to a power of two; eight devices share a batch."""

    class Placed(Exception):
        pass

    def place(batch, sharding, rows):
        raise Placed(batch.shape[0], rows)

    monkeypatch.setattr(trained_model.mesh_lib, "put_batch", place)
    with pytest.raises(Placed) as placed:
        model.run("audio", np.zeros((count, 16, 32), np.float32), lambda *_: None, batch_size=40)
    assert placed.value.args == (size, size)


def test_frames_of_any_size_are_resized_and_normalized(model, small):
    frames = np.full((2, 4, 24, 36, 3), 128, np.uint8)
    gray = (np.float32(128 / 255) - np.array(small.video.mean)) / np.array(small.video.std)
    normalized = np.broadcast_to(gray.astype(np.float32), (2, *small.video.global_shape, 3))
    expected = model.encode_video(normalized, normalized=True)
    np.testing.assert_allclose(model.encode_video(frames).pooled, expected.pooled, atol=1e-5)
    # only the square in the middle is used
    frames[:, :, :, :6] = frames[:, :, :, -6:] = 0
    np.testing.assert_allclose(model.encode_video(frames).pooled, expected.pooled, atol=1e-5)


def test_sounds_of_any_rate_and_length_are_encoded(model, small):
    seconds = small.audio.columns * small.audio.hop / small.audio.sample_rate
    times = np.arange(round(seconds * 48000)) / 48000
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)[None].astype(np.float32)
    at_48, at_16 = (model.encode_audio(tone[:, ::k], 48000 // k) for k in (1, 3))
    assert at_48.tokens.shape == (1, 16, 24)
    assert np.abs(at_48.pooled - at_16.pooled).max() < 0.2 * np.abs(at_16.pooled).max()
    half = tone[:, : len(times) // 2]
    padded = np.pad(half, ((0, 0), (0, len(times) - half.shape[1])))
    shorter, silent = model.encode_audio(half, 48000), model.encode_audio(padded, 48000)
    assert shorter.tokens.shape == silent.tokens.shape
    longer = model.encode_audio(np.tile(tone, 2), 48000)
    assert longer.tokens.shape == (1, 32, 24)


def test_rows_do_not_depend_on_their_batch(model, small):
    view = np.random.default_rng(0).normal(size=(20, *small.audio.global_shape))
    view = view.astype(np.float32)
    whole = model.encode_audio(log_mel=view).pooled
    np.testing.assert_allclose(model.encode_audio(log_mel=view[17:]).pooled, whole[17:], atol=1e-6)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda m: m.encode_video(np.zeros((2, 4, 8, 8, 3))), "give uint8"),
        (lambda m: m.encode_video(np.zeros((4, 8, 8, 3), np.uint8)), "give uint8"),
        (lambda m: m.encode_video(np.zeros((1, 3, 8, 8, 3), np.uint8)), "multiples of the patch"),
        (lambda m: m.encode_video(np.zeros((1, 4, 9, 8, 3), np.float32), normalized=True),
         "multiples of the patch"),
        (lambda m: m.encode_video(np.zeros((0, 4, 8, 8, 3), np.uint8)), "batch is empty"),
        (lambda m: m.encode_audio(np.zeros((1, 99), np.float32)), "needs samples with sample_rate"),
        (lambda m: m.encode_audio(np.zeros(99, np.float32), 16000), "give floats"),
        (lambda m: m.encode_audio(np.zeros((1, 99), np.int16), 16000), "give floats"),
        (lambda m: m.encode_audio(log_mel=np.zeros((1, 8, 32), np.float32)), "16, time"),
        (lambda m: m.encode_audio(log_mel=np.zeros((1, 16, 31), np.float32)), "multiples"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(model, call, words):
    with pytest.raises(UserError) as refused:
        call(model)
    assert words in str(refused.value)
    assert str(refused.value).endswith(".")


def test_invalid_sources_are_refused(tmp_path, checkpoint):
    for source, options, words in (
        (tmp_path / "absent", {}, "does not exist: check the path"),
        (tmp_path, {}, "holds no checkpoint of a pretraining run"),
        (checkpoint, {"network": "both"}, "give 'student' or 'teacher'"),
        (checkpoint, {"compute_dtype": "float64"}, "give one of float32, bfloat16"),
        (checkpoint, {"modalities": ("text",)}, "has no encoder of text"),
        ([], {}, "list of sources is empty"),
    ):
        with pytest.raises(UserError, match=words):
            xkd_jax.load(source, **options)


def test_a_step_of_a_weight_file_is_refused(model, tmp_path):
    xkd_jax.export(model, tmp_path / "exported")
    with pytest.raises(UserError, match=r"Step 3 is given, and .* is no run, .*: leave step"):
        xkd_jax.load(tmp_path / "exported", step=3)


@pytest.mark.parametrize("name", ["videomae_finetune", "audiomae", "ast"])
def test_encoders_of_other_projects_are_loaded_and_run(tmp_path, name, capsys):
    case = CASES[name]()
    path = write_case(tmp_path, case, key="model")
    model = xkd_jax.load(path, **case.given)
    assert capsys.readouterr().out.startswith(f"weights   {path} is a")
    if case.modality == "video":
        found = model.encode_video(case.view[None], normalized=True)
    else:
        found = model.encode_audio(log_mel=case.view[None])
    special = model.config[case.modality].special_tokens
    np.testing.assert_allclose(found.tokens[0], case.tokens[special:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.pooled[0], case.pooled, rtol=1e-5, atol=1e-5)
    assert (found.cls is None) == (special == 0)
    assert model.license


def test_config_of_a_run_is_not_taken_for_an_exported_folder(checkpoint, model, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"seed": 0}')
    assert xkd_jax.load(tmp_path / "run").digest == model.digest


def test_a_transformers_folder_is_loaded(tmp_path):
    case = CASES["videomae_transformers"]()
    with open(tmp_path / "model.safetensors", "wb") as file:
        safetensors_file.write(file, case.tensors, {})
    (tmp_path / "config.json").write_text(json.dumps(case.config))
    assert xkd_jax.load(tmp_path).config["video"].transformer.depth == 2
    preprocessor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    view = xkd_jax.load(tmp_path).config["video"].view
    assert (view.mean, view.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    with pytest.raises(UserError, match=r"and no weights: put model.safetensors there"):
        xkd_jax.load(tmp_path)


def test_two_backbones_are_one_model(tmp_path, small, model):
    tensors = author_weights.export({"student": random_student(small, 0)}, small.architecture)
    paths = []
    for prefix in ("vid", "aud"):
        start = f"{prefix}_student.backbone."
        part = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
        paths.append(tmp_path / f"{prefix}.pth.tar")
        paths[-1].write_bytes(torch_files.zipped(torch_files.tensors_of(part)))
    sizes = {
        "heads": 2,
        "video": {name: getattr(small.video, name) for name in ("frames", "size", "patch")},
        "audio": {name: getattr(small.audio, name) for name in ("mels", "columns", "patch")},
    }
    both = xkd_jax.load(paths, **sizes)
    assert both.modalities == ("video", "audio")
    view = views(small)["video"]
    np.testing.assert_array_equal(
        both.encode_video(view, normalized=True).tokens,
        model.encode_video(view, normalized=True).tokens,
    )
    assert both.license == "CC BY-NC 4.0"
    with pytest.raises(UserError, match="Two of the sources have an encoder of video"):
        xkd_jax.load([paths[0], paths[0]], **sizes)


def test_importing_the_package_is_cheap():
    code = "import sys, xkd_jax; assert not {'jax', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        xkd_jax.lode  # noqa: B018


# Kaldi's filter bank


def test_filter_bank_of_silence_is_kaldis_floor():
    found = kaldi.filter_bank(np.zeros(1000, np.float32))
    assert found.shape == (128, 1 + (1000 - 400) // 160)
    np.testing.assert_allclose(found, np.log(2.0**-23), rtol=1e-6)
    assert kaldi.filter_bank(np.zeros(399, np.float32)).shape == (128, 0)


def test_filter_bank_equals_kaldis_definition():
    """One frame at a time, with sums in place of a Fourier transform."""
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, 900) + 0.3 * np.sin(np.arange(900) / 5) + 0.2
    found = kaldi.filter_bank(wave, mels=12)
    wave = wave - wave.mean()
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 14)
    for frame in range(found.shape[1]):
        piece = wave[160 * frame : 160 * frame + 400]
        piece = piece - piece.mean()
        piece = np.array([piece[j] - 0.97 * piece[max(j - 1, 0)] for j in range(400)])
        piece *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
        for band in range(12):
            power = 0.0
            for k in range(256):
                mel = 1127 * np.log(1 + k * 16000 / 512 / 700)
                low, center, high = edges[band : band + 3]
                rising, falling = (mel - low) / (center - low), (high - mel) / (high - center)
                weight = min(rising, falling)
                if weight > 0:
                    turn = np.exp(-2j * np.pi * k * np.arange(400) / 512)
                    power += weight * abs((piece * turn).sum()) ** 2
            np.testing.assert_allclose(found[band, frame], np.log(max(power, 2.0**-23)), atol=2e-4)
