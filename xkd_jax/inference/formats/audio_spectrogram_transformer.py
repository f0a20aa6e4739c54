"""AST, the Audio Spectrogram Transformer, in the files of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import AudioConfig, Modality
from xkd_jax.config import dataclass_schema
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.audiomae import KALDI
from xkd_jax.inference.formats.format import EncoderWeights, Format, Request, encoder_weights
from xkd_jax.inference.formats.geometry import heads_of
from xkd_jax.inference.formats.layouts import spectrogram_kernel
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.formats.videomae import stated_without_bias, take_layer
from xkd_jax.inference.formats.vision_transformer import take_norm

LICENSE = "BSD-3-Clause"
_EPS = 1e-12
_PREFIX = "audio_spectrogram_transformer."
# AudioSet's mean and deviation, as published.
_MEAN, _DEVIATION = -4.2677393, 4.5689974
# Needed keys of config.json: otherwise the input and the patches' stride are unknown.
_NEEDED = ("max_length", "num_mel_bins", "frequency_stride", "time_stride", "num_attention_heads")


def _is_one(names: frozenset[str]) -> bool:
    return any(f"{prefix}embeddings.distillation_token" in names for prefix in ("", _PREFIX))


def _convert(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    settings = request.config
    if missing := [name for name in _NEEDED if name not in settings]:
        raise UserError(
            f"{state.path} is an AST, but the folder has no config.json with {', '.join(missing)}:"
            " give the folder that transformers wrote."
        )
    prefix = _PREFIX if f"{_PREFIX}embeddings.cls_token" in state else ""
    encoder = state.below(prefix)
    kernel = encoder.take("embeddings.patch_embeddings.projection.weight")
    width, depth = kernel.shape[0], encoder.depth(r"encoder\.layer\.(\d+)\.")
    view = dataclass_schema.build(
        AudioConfig,
        {
            **KALDI, **_statistics(request), "mels": settings["num_mel_bins"],
            "columns": settings["max_length"], "patch": tuple(kernel.shape[2:]),
        },
    )  # fmt: skip
    special = ("cls_token", "distillation_token")
    tensors = {
        "patch_embed.proj.weight": spectrogram_kernel(kernel),
        "patch_embed.proj.bias": encoder.take("embeddings.patch_embeddings.projection.bias"),
        "cls_token": np.concatenate([encoder.take(f"embeddings.{n}") for n in special], axis=1),
        "pos_embed": encoder.take("embeddings.position_embeddings"),
        **take_norm(encoder, "layernorm", "norm"),
    }
    for i in range(depth):
        block = take_layer(encoder, f"encoder.layer.{i}", stated_without_bias(settings))
        tensors |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    state.leave("classifier", "classifier.")
    state.finish("an AST")
    eps = float(settings.get("layer_norm_eps", _EPS))
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0]
    heads = heads_of(state.path, width, request.given, settings["num_attention_heads"])
    config = EncoderConfig(
        Transformer(width, depth, heads, hidden / width, qkv_bias=True, norm_eps=eps),
        view,
        special_tokens=len(special),
        stride=(settings["frequency_stride"], settings["time_stride"]),
        norm_eps=eps,
        pool="special",
    )
    return {"audio": encoder_weights(config, tensors, state.path)}


def _statistics(request: Request) -> dict[str, Any]:
    """Returns mean and divisor; the authors' feature extractor divides by twice the deviation."""
    found = request.preprocessor
    deviation = found.get("std", _DEVIATION)
    if not isinstance(deviation, int | float):
        deviation = _DEVIATION
    return {"mean": found.get("mean", _MEAN), "std": 2 * deviation}


FORMAT = Format("an AST of transformers", "AST", LICENSE, _is_one, _convert)
