"""AudioMAE: the authors' files, and the ports of them under timm's names."""

from __future__ import annotations

from typing import Any

import einops
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import kaldi
from data_pipelines.loader_config import AudioConfig, Modality
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.format import EncoderWeights, Format, Request, encoder_weights
from xkd_jax.inference.formats.geometry import view_of
from xkd_jax.inference.formats.layouts import spectrogram_kernel
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.formats.vision_transformer import take_blocks, take_norm, transformer_of

LICENSE = "CC BY-NC 4.0"
_EPS = 1e-6
_MELS = 128
_PATCH = (16, 16)
# The spectrogram of Kaldi's filter bank, and AudioSet's mean and twice its deviation.
KALDI: dict[str, Any] = {
    "spectrogram": "kaldi", "sample_rate": kaldi.SAMPLE_RATE, "fft": kaldi.FFT, "hop": kaldi.HOP,
}  # fmt: skip
_STATISTICS = {"mean": -4.2677393, "std": 2 * 4.5689974}


def _is_one(names: frozenset[str]) -> bool:
    needed = {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias"}
    return needed <= names


def _convert(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    kernel = state.take("patch_embed.proj.weight")
    if kernel.ndim != 4 or kernel.shape[1] != 1:
        raise UserError(
            f"{state.path} has a patch embedding of shape {kernel.shape}, not of spectrograms:"
            " give weights of a kind that docs/inference.md lists."
        )
    positions = state.take("pos_embed")
    tokens, patch = positions.shape[1] - 1, (kernel.shape[3], kernel.shape[2])
    published = patch == _PATCH and tokens % (_MELS // _PATCH[0]) == 0
    columns = tokens // (_MELS // _PATCH[0]) * _PATCH[1]
    sizes = {"mels": _MELS, "columns": columns} if published else {}
    view = view_of(
        state.path,
        "audio",
        request.given,
        {"patch": patch},
        {**KALDI, **_STATISTICS, **sizes},
        tokens,
        kernel[0].size,
    )
    assert isinstance(view, AudioConfig)
    depth = state.depth(r"blocks\.(\d+)\.")
    tensors = {
        "patch_embed.proj.weight": spectrogram_kernel(kernel, time_first=True),
        "patch_embed.proj.bias": state.take("patch_embed.proj.bias"),
        "cls_token": state.take("cls_token"),
        "pos_embed": _mel_first(positions, view),
        **take_blocks(state, [f"blocks.{i}" for i in range(depth)]),
    }
    finetuned = "fc_norm.weight" in state
    name = "fc_norm" if finetuned else "norm"
    tensors |= take_norm(state, name, name)
    transformer = transformer_of(state, request.given, depth=depth, eps=_EPS)
    state.leave("decoder", "decoder", "mask_token")
    state.leave("classifier", "head.")
    state.finish("an AudioMAE")
    config = EncoderConfig(
        transformer,
        view,
        norm="pooled" if finetuned else "tokens",
        norm_eps=_EPS,
    )
    return {"audio": encoder_weights(config, tensors, state.path)}


def _mel_first(positions: np.ndarray, view: AudioConfig) -> np.ndarray:
    """Positions of tokens in the order (time, mel), in ours; CLS comes first in both."""
    mels, _ = view.grid
    patches = einops.rearrange(positions[:, 1:], "1 (t m) d -> 1 (m t) d", m=mels)
    return np.concatenate([positions[:, :1], patches], axis=1)


FORMAT = Format("an AudioMAE", "AudioMAE", LICENSE, _is_one, _convert)
