"""The XKD authors' files: the backbone of one network, or a whole training checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, AudioConfig, Modality, VideoConfig
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.author_weights import (
    CENTERS,
    PREFIX,
    decoder_entries,
    names_of_backbone,
)
from xkd_jax.inference.formats.format import (
    DecoderWeights,
    EncoderWeights,
    Format,
    Request,
    decoder_weights,
    encoder_weights,
)
from xkd_jax.inference.formats.geometry import heads_of, view_of
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.tensor_names import encoder_entries

LICENSE = "CC BY-NC 4.0"
_PROJECTION: dict[Modality, str] = {
    "video": "cuboid_embed.proj.weight",
    "audio": "patch_embed.proj.weight",
}
# Sizes of the paper's networks, which their tensors fit.
_PAPER: dict[Modality, VideoConfig | AudioConfig] = {"video": VideoConfig(), "audio": AudioConfig()}
_SIZES: dict[Modality, tuple[str, ...]] = {
    "video": ("frames", "size", "patch"),
    "audio": ("mels", "columns", "patch"),
}


def _is_backbone(names: frozenset[str]) -> bool:
    return "enc_pos_embed" in names and bool(names & set(_PROJECTION.values()))


def _is_checkpoint(names: frozenset[str]) -> bool:
    return any(f"{prefix}_student.backbone.enc_pos_embed" in names for prefix in PREFIX.values())


def _of_backbone(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    modality: Modality = "video" if _PROJECTION["video"] in state else "audio"
    return {modality: _encoder(state, modality, request)}


def _of_checkpoint(state: StateDict, request: Request) -> dict[Modality, EncoderWeights]:
    found: dict[Modality, EncoderWeights] = {}
    _check_aliases(state)
    for modality in MODALITIES:
        backbone = state.below(f"{PREFIX[modality]}_{request.network}.backbone.")
        if len(backbone):
            weights = _encoder(backbone, modality, request)
            student = request.network == "student"
            found[modality] = _with_decoder(state, modality, weights) if student else weights
    if not found:
        raise UserError(
            f"{state.path} has no encoder of the {request.network}: give"
            f" {request.given.name('network')}."
        )
    other = {"student": "teacher", "teacher": "student"}[request.network]
    for prefix in PREFIX.values():
        state.leave(f"encoders of the {other}", f"{prefix}_{other}.backbone.")
        state.leave("heads", f"{prefix}_student.head.", f"{prefix}_teacher.head.")
        state.leave("copies of encoders", f"{prefix}_ae.encoder.")
        state.leave("decoders", f"{prefix}_ae.")
    state.leave("centers", *CENTERS)
    state.finish("a checkpoint of XKD")
    return found


def _with_decoder(state: StateDict, modality: Modality, weights: EncoderWeights) -> EncoderWeights:
    """Returns the weights with the decoder, if the checkpoint has it.

    As in all sizes of the paper, the decoder has as many heads as the encoder.
    """
    own, encoder = state.below(f"{PREFIX[modality]}_ae."), weights.config
    if "mask_token" not in own:
        return weights
    width, heads = own.shape("mask_token")[-1], encoder.transformer.heads
    hidden = own.shape("decoder.blocks.0.mlp.fc1.weight")[0]
    sizes = Transformer(width, own.depth(r"decoder\.blocks\.(\d+)\."), heads, hidden / width)
    if width % heads:  # of other sizes than the paper's
        return weights
    entries = decoder_entries(encoder.transformer.width, sizes, encoder.view.patch_values)
    params = decoder_weights(encoder, sizes, entries, own.take, state.path)
    return weights._replace(decoder=DecoderWeights(sizes, _PAPER[modality].mask_ratio, params))


def _check_aliases(state: StateDict) -> None:
    """Checks that the autoencoder's encoder equals the student's; in XKD they are the same."""
    for prefix in PREFIX.values():
        for name in state.below(f"{prefix}_ae.encoder.").names:
            one, other = f"{prefix}_ae.encoder.{name}", f"{prefix}_student.backbone.{name}"
            if other in state and not np.array_equal(state.read(one), state.read(other)):
                raise UserError(
                    f"{state.path} has {one} and {other} with different values, which are one"
                    " tensor in XKD: give a checkpoint of XKD."
                )


def _encoder(state: StateDict, modality: Modality, request: Request) -> EncoderWeights:
    width, values = state.shape(_PROJECTION[modality])
    tokens = state.shape("enc_pos_embed")[1] - 1
    config = EncoderConfig(
        Transformer(
            width,
            state.depth(r"encoder\.blocks\.(\d+)\."),
            heads_of(state.path, width, request.given),
            state.shape("encoder.blocks.0.mlp.fc1.weight")[0] / width,
        ),
        view_of(
            state.path,
            modality,
            request.given,
            {},
            _paper_sizes(modality, tokens, values),
            tokens,
            values,
        ),
    )
    theirs = {ours: name for name, ours in names_of_backbone(modality).items()}
    tensors = {}
    for entry in encoder_entries(config):
        begins = next((ours for ours in theirs if entry.name.startswith(ours)), "")
        name = theirs.get(begins, "") + entry.name.removeprefix(begins)
        tensors[entry.name] = state.take(name)
    state.finish("a backbone of XKD")
    return encoder_weights(config, tensors, state.path)


def _paper_sizes(modality: Modality, tokens: int, values: int) -> dict[str, Any]:
    """Returns the paper's sizes if a file's tensors have them, else {}."""
    view = _PAPER[modality]
    if (view.tokens, view.patch_values) != (tokens, values):
        return {}
    return {name: getattr(view, name) for name in _SIZES[modality]}


BACKBONE = Format("a backbone of XKD's authors", "XKD", LICENSE, _is_backbone, _of_backbone)
CHECKPOINT = Format(
    "a checkpoint of XKD's authors", "XKD", LICENSE, _is_checkpoint, _of_checkpoint,
    both_networks=True,
)  # fmt: skip
