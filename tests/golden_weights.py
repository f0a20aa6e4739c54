"""Files of other projects' encoders, with inputs and outputs of the original code, if present."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason="the golden weights are not here")
XKD = {
    "heads": 3,
    "video": {"frames": 4, "size": 16, "patch": (2, 4, 4)},
    "audio": {"mels": 16, "columns": 64, "patch": (4, 8)},
}
BACKBONE = "xkd/XKD_kinetics400_pretext_ep799{}_{}.pth.tar"


class Golden(NamedTuple):
    """An encoder's input, tokens and pooled features: names of arrays, and conversions to our axes.

    `tokens` are without special ones.
    """

    view: str
    convert: Callable[[np.ndarray], np.ndarray]
    tokens: str
    pooled: str
    patches: Callable[[np.ndarray], np.ndarray] = lambda tokens: tokens


def color_last(array):
    """[batch, color, time, height, width] as [batch, time, height, width, color]."""
    return array.transpose(0, 2, 3, 4, 1)


def mel_first(array):
    return array.transpose(0, 2, 1)


def by_mel(tokens):
    """Tokens that run along time first, of 8 x 4 patches behind CLS."""
    return tokens[:, 1:].reshape(2, 8, 4, -1).swapaxes(1, 2).reshape(2, 32, -1)


# {file: (keys, {modality: what the original code has})}
FILES: dict[str, tuple[dict[str, Any], dict[str, Golden]]] = {
    BACKBONE.format("vid", "student"): (XKD, {"video": Golden(
        "in/video", color_last, "out/vid_student/tokens", "out/vid_student/pooled",
        lambda tokens: tokens[:, 1:])}),
    BACKBONE.format("aud", "teacher"): (XKD, {"audio": Golden(
        "in/audio", lambda a: a[:, 0], "out/aud_teacher/tokens", "out/aud_teacher/pooled",
        lambda tokens: tokens[:, 1:])}),
    "videomae_official_pretrain/checkpoint-799.pth": (
        {"heads": 3, "video": {"frames": 16, "size": 16}},
        {"video": Golden("in/video", color_last, "out/tokens", "out/pooled")}),
    "videomae_official_finetune/checkpoint-799.pth": (
        {"heads": 3, "video": {"frames": 4, "size": 24}},
        {"video": Golden("in/video", color_last, "out/tokens_before_norm", "out/pooled")}),
    "videomae_hf_pretraining": ({}, {"video": Golden(
        "in/pixel_values", lambda a: a.transpose(0, 1, 3, 4, 2), "out/last_hidden_state",
        "out/mean")}),
    "audiomae_pretrain/pretrained.pth": (
        {"heads": 3, "audio": {"mels": 32, "columns": 64}},
        {"audio": Golden("in/log_mel", lambda a: mel_first(a[:, 0]), "out/tokens", "out/pooled",
                         by_mel)}),
    "cavmae/audio_model.pth": ({"heads": 2}, {
        "audio": Golden("in/log_mel", mel_first, "out/audio_tokens", "out/audio_pooled"),
        "video": Golden("in/frame", lambda a: a.transpose(0, 2, 3, 1)[:, None],
                        "out/video_tokens", "out/video_pooled")}),
    "ast_hf": ({}, {"audio": Golden(
        "in/input_values", mel_first, "out/last_hidden_state", "out/pooler_output",
        lambda tokens: tokens[:, 2:])}),
}  # fmt: skip


def features(file):
    """The arrays of the original code for a file."""
    return np.load(WEIGHTS / file.partition("/")[0] / "features.npz")


def assert_close(found, expected):
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
