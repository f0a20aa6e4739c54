"""CAV-MAE: the separate encoders of audio and of single frames."""

from __future__ import annotations

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioConfig, Modality, VideoConfig
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.audiomae import KALDI
from xkd_jax.inference.formats.format import EncoderWeights, Format, Request, encoder_weights
from xkd_jax.inference.formats.geometry import view_of
from xkd_jax.inference.formats.layouts import image_kernel, spectrogram_kernel
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.formats.vision_transformer import take_block, take_norm, transformer_of

LICENSE = "BSD-2-Clause"
_EPS = 1e-5
_LETTER: dict[Modality, str] = {"video": "v", "audio": "a"}
_MELS, _SIDE = 128, 16
_STATISTICS = {"mean": -5.081, "std": 4.4849}


def _is_one(names: frozenset[str]) -> bool:
    return {"modality_a", "modality_v", "pos_embed_a", "pos_embed_v"} <= names


def _convert(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    if any("register" in name or name.startswith("cls_token") for name in state.names):
        raise UserError(
            f"{state.path} is a CAV-MAE Sync, whose register tokens are not supported: give weights"
            " of CAV-MAE."
        )
    found = {modality: _encoder(state, modality, request) for modality in _LETTER}
    for letter in _LETTER.values():
        depth = state.depth(rf"blocks_{letter}\.(\d+)\.")
        state.leave(
            "norms that nothing uses",
            *(f"blocks_{letter}.{i}.norm{n}_" for i in range(depth) for n in (1, 2)),
        )
    joint = range(state.depth(r"blocks_u\.(\d+)\."))
    state.leave(
        "norms of both modalities together",
        "norm.",
        *(f"blocks_u.{i}.norm{n}." for i in joint for n in (1, 2)),
    )
    state.leave("decoder", "decoder", "mask_token")
    state.leave("classifier", "mlp_head")
    state.finish("a CAV-MAE")
    return found


def _encoder(state: StateDict, modality: Modality, request: Request) -> EncoderWeights:
    letter = _LETTER[modality]
    kernel = state.take(f"patch_embed_{letter}.proj.weight")
    positions = state.take(f"pos_embed_{letter}")
    config_view = _audio_view if modality == "audio" else _video_view
    view = config_view(state, kernel, positions.shape[1], request)
    own = state.depth(rf"blocks_{letter}\.(\d+)\.")
    joint = state.depth(r"blocks_u\.(\d+)\.")
    transformer = transformer_of(
        state, request.given, depth=own + joint, first=f"blocks_{letter}.0", eps=_EPS
    )
    convert = spectrogram_kernel if modality == "audio" else image_kernel
    tensors = {
        "patch_embed.proj.weight": convert(kernel),
        "patch_embed.proj.bias": state.take(f"patch_embed_{letter}.proj.bias"),
        # a constant of the modality is added to each of its tokens
        "pos_embed": positions + state.take(f"modality_{letter}"),
        **take_norm(state, f"norm_{letter}", "norm"),
    }
    for i in range(own + joint):
        name, norms = f"blocks_{letter}.{i}", ""
        if i >= own:  # joint blocks have norms for each modality
            name, norms = f"blocks_u.{i - own}", f"_{letter}"
        block = take_block(state, name, norms)
        tensors |= {f"blocks.{i}.{part}": value for part, value in block.items()}
    config = EncoderConfig(transformer, view, special_tokens=0, norm_eps=_EPS)
    return encoder_weights(config, tensors, state.path)


def _audio_view(
    state: StateDict, kernel: np.ndarray, tokens: int, request: Request
) -> VideoConfig | AudioConfig:
    patch = tuple(kernel.shape[2:])
    rows = _MELS // patch[0]
    sizes = {"mels": _MELS, "columns": tokens // rows * patch[1]} if tokens % rows == 0 else {}
    defaults = {**KALDI, **_STATISTICS, **(sizes if patch == (_SIDE, _SIDE) else {})}
    return view_of(
        state.path, "audio", request.given, {"patch": patch}, defaults, tokens, kernel[0].size
    )


def _video_view(
    state: StateDict, kernel: np.ndarray, tokens: int, request: Request
) -> VideoConfig | AudioConfig:
    """The view of one square frame; videos have one frame per second."""
    patch = (1, *kernel.shape[2:])
    size = round(tokens**0.5) * patch[1]
    known = {"patch": patch, "frames": 1, "size": size}
    return view_of(
        state.path, "video", request.given, known, {"frame_rate": 1.0}, tokens, kernel[0].size
    )


FORMAT = Format("a CAV-MAE", "CAV-MAE", LICENSE, _is_one, _convert)
