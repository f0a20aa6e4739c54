"""Evaluations and runs with files that other projects' code wrote."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.config.stated_input import StatedAudio, StatedVideo
from xkd_jax.evaluate import pretrained
from xkd_jax.inference import starting_weights
from xkd_jax.parallel.mesh import make_mesh

WEIGHTS = pathlib.Path(__file__).parents[3] / "shared" / "weights"
pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="the golden weights are not here")

XKD = {
    "heads": 3,
    "video": StatedVideo(frames=4, size=16, patch=(2, 4, 4)),
    "audio": StatedAudio(mels=16, columns=64, patch=(4, 8)),
}
BACKBONE = "xkd/XKD_kinetics400_pretext_ep799{}_{}.pth.tar"


def color_last(array):
    return array.transpose(0, 2, 3, 4, 1)


def mel_first(array):
    return array.transpose(0, 2, 1)


# {file: (keys, {modality: (input, its conversion to our axes, features)})}
FILES = {
    BACKBONE.format("vid", "student"): (
        XKD, {"video": ("in/video", color_last, "out/vid_student/pooled")}),
    BACKBONE.format("aud", "teacher"): (
        XKD, {"audio": ("in/audio", lambda a: a[:, 0], "out/aud_teacher/pooled")}),
    "videomae_official_pretrain/checkpoint-799.pth": (
        {"heads": 3, "video": StatedVideo(frames=16, size=16)},
        {"video": ("in/video", color_last, "out/pooled")}),
    "videomae_official_finetune/checkpoint-799.pth": (
        {"heads": 3, "video": StatedVideo(frames=4, size=24)},
        {"video": ("in/video", color_last, "out/pooled")}),
    "videomae_hf_pretraining": (
        {}, {"video": ("in/pixel_values", lambda a: a.transpose(0, 1, 3, 4, 2), "out/mean")}),
    "audiomae_pretrain/pretrained.pth": (
        {"heads": 3, "audio": StatedAudio(mels=32, columns=64)},
        {"audio": ("in/log_mel", lambda a: mel_first(a[:, 0]), "out/pooled")}),
    "cavmae/audio_model.pth": (
        {"heads": 2},
        {"audio": ("in/log_mel", mel_first, "out/audio_pooled"),
         "video": ("in/frame", lambda a: a.transpose(0, 2, 3, 1)[:, None], "out/video_pooled")}),
    "ast_hf": ({}, {"audio": ("in/input_values", mel_first, "out/pooler_output")}),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_evaluations_compute_the_features_of_the_original_code(file):
    keys, inputs = FILES[file]
    values = np.load(WEIGHTS / file.partition("/")[0] / "features.npz")
    config = EvalConfig(
        checkpoint=str(WEIGHTS / file), modality="both" if len(inputs) > 1 else next(iter(inputs)),
        **keys,
    )  # fmt: skip
    source = pretrained.load(config, make_mesh(MeshConfig()))
    for modality, (name, convert, features) in inputs.items():
        encoder = source.network.encoder(modality, source.parameters["encoders"][modality])
        view = jnp.asarray(np.ascontiguousarray(convert(values[name])))
        with jax.default_matmul_precision("highest"):
            found = encoder.pool(encoder(view))
        expected = values[features]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_runs_start_from_the_authors_networks(small, network):
    video = dataclasses.replace(small.video, frames=4, size=16, patch=(2, 4, 4))
    audio = dataclasses.replace(small.audio, mels=16, columns=64, patch=(4, 8))
    init = InitConfig(
        **{"from": ",".join(str(WEIGHTS / BACKBONE.format(m, network)) for m in ("vid", "aud"))},
        **XKD,
    )
    model = dataclasses.replace(small.model, size="24/2/3:16/1/2")
    config = dataclasses.replace(small, video=video, audio=audio, init=init, model=model)
    values = np.load(WEIGHTS / "xkd" / "features.npz")
    found = starting_weights.read(config.init, config.architecture).values
    for modality, name in (("video", "vid"), ("audio", "aud")):
        keys = {"checkpoint": str(WEIGHTS / BACKBONE.format(name, network)), "modality": modality}
        source = pretrained.load(EvalConfig(**keys, **XKD), make_mesh(MeshConfig()))
        params = {
            "embedding": found["embeddings"][modality],
            "blocks": found["blocks"][modality],
            "norm": found["norms"][modality],
        }
        encoder = source.network.encoder(modality, jax.tree.map(jnp.asarray, params))
        view = values[f"in/{modality}"]
        view = color_last(view) if modality == "video" else view[:, 0]
        with jax.default_matmul_precision("highest"):
            tokens = encoder(jnp.asarray(np.ascontiguousarray(view)))
        expected = values[f"out/{name}_{network}/tokens"]
        assert np.abs(tokens - expected).max() <= 1e-5 * np.abs(expected).max()
