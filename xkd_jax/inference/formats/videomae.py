"""VideoMAE: the authors' files of its two versions, and those of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality, VideoConfig
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.format import EncoderWeights, Format, Request, encoder_weights
from xkd_jax.inference.formats.geometry import heads_of, view_of
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.formats.layouts import query_and_value_bias, sinusoid, video_kernel
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.formats.vision_transformer import take_blocks, take_norm, transformer_of

LICENSE = "CC BY-NC 4.0 (VideoMAE; the code of VideoMAE v2 has the MIT license)"
# Every fourth frame of videos with 30 a second.
_FRAME_RATE = 7.5
_EPS = 1e-6
_EPS_TRANSFORMERS = 1e-12
# transformers creates `fc_norm` with PyTorch's default; its config is not used.
_EPS_CLASSIFICATION = 1e-5


def _is_official(names: frozenset[str]) -> bool:
    return any(
        f"{prefix}patch_embed.proj.weight" in names
        and bool({f"{prefix}blocks.0.attn.{n}" for n in ("q_bias", "v_bias", "scale")} & names)
        for prefix in ("", "encoder.")
    )


def _of_official(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    pretrained = "encoder.patch_embed.proj.weight" in state
    encoder = state.below("encoder.") if pretrained else state
    if "blocks.0.attn.scale" in encoder:
        raise UserError(
            f"{state.path} is a VideoMAE v2 with cosine attention, which is not supported: give one"
            " with scaled dot-product attention."
        )
    kernel = encoder.take("patch_embed.proj.weight")
    view = _view(state.path, kernel, request.given, {})
    depth = encoder.depth(r"blocks\.(\d+)\.")
    transformer = transformer_of(encoder, request.given, depth=depth, eps=_EPS)
    tensors = {
        **_embedding(kernel, encoder.take("patch_embed.proj.bias"), view, transformer.width),
        **take_blocks(encoder, [f"blocks.{i}" for i in range(depth)]),
    }
    norm = _norm(encoder, tensors, {"norm": "norm", "fc_norm": "fc_norm"})
    state.leave("decoder", "decoder.", "encoder_to_decoder.", "mask_token")
    state.leave("classifier", "head.")
    state.finish("a VideoMAE")
    config = EncoderConfig(transformer, view, special_tokens=0, norm=norm, norm_eps=_EPS)
    return {"video": encoder_weights(config, tensors, state.path)}


def _is_of_transformers(names: frozenset[str]) -> bool:
    return any(
        f"{prefix}embeddings.patch_embeddings.projection.weight" in names
        and f"{prefix}embeddings.cls_token" not in names
        for prefix in ("", "videomae.")
    )


def _of_transformers(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    settings = request.config
    prefix = "videomae." if any(n.startswith("videomae.") for n in state.names) else ""
    encoder = state.below(prefix)
    if settings.get("hidden_act", "gelu") != "gelu":
        raise UserError(
            f"{state.path} is a VideoMAE with another activation than GELU: give one with GELU."
        )
    kernel = encoder.take("embeddings.patch_embeddings.projection.weight")
    known = {
        ours: settings[theirs]
        for ours, theirs in (("frames", "num_frames"), ("size", "image_size"))
        if theirs in settings
    }
    known |= {
        ours: tuple(request.preprocessor[theirs])
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
        if isinstance(request.preprocessor.get(theirs), list)
    }
    view = _view(state.path, kernel, request.given, known)
    width = kernel.shape[0]
    depth = encoder.depth(r"encoder\.layer\.(\d+)\.")
    heads = heads_of(state.path, width, request.given, settings.get("num_attention_heads"))
    hidden = encoder.shape("encoder.layer.0.intermediate.dense.weight")[0]
    eps = float(settings.get("layer_norm_eps", _EPS_TRANSFORMERS))
    transformer = Transformer(width, depth, heads, hidden / width, qkv_bias=True, norm_eps=eps)
    bias = encoder.take("embeddings.patch_embeddings.projection.bias")
    tensors = _embedding(kernel, bias, view, width)
    for i in range(depth):
        block = take_layer(encoder, f"encoder.layer.{i}", stated_without_bias(settings))
        tensors |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    norm = _norm(encoder, tensors, {"layernorm": "norm"})
    if norm == "none":
        norm = _norm(state, tensors, {"fc_norm": "fc_norm"})
    state.leave("decoder", "decoder.", "encoder_to_decoder.", "mask_token", "position_embeddings")
    state.leave("classifier", "classifier.")
    state.finish("a VideoMAE of transformers")
    norm_eps = _EPS_CLASSIFICATION if norm == "pooled" else eps
    config = EncoderConfig(transformer, view, special_tokens=0, norm=norm, norm_eps=norm_eps)
    return {"video": encoder_weights(config, tensors, state.path)}


def stated_without_bias(settings: Mapping[str, Any]) -> bool:
    """Whether a config of transformers states that queries and values have no biases."""
    return settings.get("qkv_bias", settings.get("qv_bias", True)) is False


def take_layer(state: StateDict, name: str, without_bias: bool) -> dict[str, np.ndarray]:
    """Returns {name within a block: float32 array} of a layer of transformers' ViTs.

    Args:
      state: tensors of the file.
      name: name of the layer.
      without_bias: whether the config states that queries and values have no biases.

    Raises:
      UserError: biases are missing, and the config does not state that: versions of transformers
        before 5.24 lose them.
    """
    attention = f"{name}.attention.attention"
    parts = ("query", "key", "value")
    found = {
        "attn.qkv.weight": np.concatenate([state.take(f"{attention}.{p}.weight") for p in parts]),
        "attn.qkv.bias": _bias(state, attention, without_bias),
    }
    for theirs, ours in (
        ("layernorm_before", "norm1"),
        ("attention.output.dense", "attn.proj"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        found |= take_norm(state, f"{name}.{theirs}", ours)  # weight and bias as well
    return found


def _bias(state: StateDict, attention: str, without_bias: bool) -> np.ndarray:
    for query, value in (("q_bias", "v_bias"), ("query.bias", "value.bias")):
        if f"{attention}.{query}" in state:
            q, v = state.take(f"{attention}.{query}"), state.take(f"{attention}.{value}")
            key = f"{attention}.key.bias"
            return (
                np.concatenate([q, state.take(key), v])
                if key in state
                else query_and_value_bias(q, v)
            )
    if not without_bias:
        raise UserError(
            f"{state.path} has no biases of queries and values, which versions of transformers"
            " before 5.24 lose when they load and save: give the original file."
        )
    return np.zeros(3 * state.shape(f"{attention}.query.weight")[0], np.float32)


def _view(path: str, kernel: np.ndarray, given: Given, known: dict[str, Any]) -> VideoConfig:
    """Returns the view; VideoMAE's files have no positions that determine its size."""
    if kernel.ndim != 5 or kernel.shape[1] != 3:
        raise UserError(
            f"{path} has a patch embedding of shape {kernel.shape}, not of videos:"
            " give weights of VideoMAE."
        )
    view = view_of(
        path,
        "video",
        given,
        {"patch": tuple(kernel.shape[2:]), **known},
        {"frame_rate": _FRAME_RATE},
        None,
        kernel[0].size,
    )
    assert isinstance(view, VideoConfig)
    return view


def _embedding(
    kernel: np.ndarray, bias: np.ndarray, view: VideoConfig, width: int
) -> dict[str, np.ndarray]:
    return {
        "patch_embed.proj.weight": video_kernel(kernel),
        "patch_embed.proj.bias": bias,
        "pos_embed": sinusoid(view.tokens, width),
    }


def _norm(state: StateDict, tensors: dict[str, np.ndarray], names: dict[str, str]) -> Any:
    """Takes the final norm with one of {its name: our name}, and returns `EncoderConfig.norm`."""
    for theirs, ours in names.items():
        if f"{theirs}.weight" in state:
            tensors |= take_norm(state, theirs, ours)
            return "pooled" if ours == "fc_norm" else "tokens"
    return "none"


OFFICIAL = Format("a VideoMAE of its authors", "VideoMAE", LICENSE, _is_official, _of_official)
TRANSFORMERS = Format(
    "a VideoMAE of transformers", "VideoMAE", LICENSE, _is_of_transformers, _of_transformers
)
