"""The authors' parameter names, and the path of each of their tensors in our parameter trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import Architecture, Transformer
from xkd_jax.config.directions import directions
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.tensor_names import (
    Array,
    Entry,
    Places,
    block_entries,
    encoder_entries,
    entry_of,
    linear_entries,
    norm_entries,
    tensors_of,
    tree_of,
)
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.tree import Tree

PREFIX: dict[Modality, str] = {"video": "vid", "audio": "aud"}
CENTERS = {"vt2as_ce_loss.center": "video_to_audio", "at2vs_ce_loss.center": "audio_to_video"}
_PATCH_EMBEDDING: dict[Modality, str] = {"video": "cuboid_embed", "audio": "patch_embed"}


def entries(architecture: Architecture) -> list[Entry]:
    """Returns the entries of all parameters of student and teacher, and of the centers.

    Shared blocks have an entry for each modality, with the same path.
    """
    found: list[Entry] = []
    for m in architecture.modalities:
        for role in ("student", "teacher"):
            found += _backbone(architecture, m, role)
            found += _head(architecture, m, role)
        found += _decoder(architecture, m)
    held = {direction.name for direction in directions(architecture.modalities)}
    for name, direction in CENTERS.items():
        if direction not in held:
            continue
        found.append(entry_of(name, ("centers", direction), lambda a: a[0], lambda a: a[None]))
    return found


def load(
    tensors: Mapping[str, Array], aliases: Mapping[str, str], architecture: Architecture
) -> Tree:
    """Returns {"student", "teacher", "centers"} with tensors under the authors' names.

    Args:
      tensors: {name: array}; one name of a tensor with several names suffices.
      aliases: {name: another name of the same tensor}.
      architecture: architecture of the networks.

    Raises:
      UserError: a tensor is missing or is not part of the networks.
    """
    table = entries(architecture)
    tree = tree_of(table, lambda name: _find(name, tensors, aliases))
    _refuse_unknown(tensors, aliases, {entry.name for entry in table})
    return tree


def export(tree: Tree, architecture: Architecture) -> dict[str, Array]:
    """Returns the tensors of a tree under the authors' names.

    Args:
      tree: one or more of the roots "student", "teacher" and "centers".
      architecture: architecture of the networks.
    """
    return tensors_of([entry for entry in entries(architecture) if entry.path[0] in tree], tree)


def _backbone(architecture: Architecture, m: Modality, role: str) -> list[Entry]:
    model = architecture.model
    shared = model.shares_student_blocks if role == "student" else model.shares_teacher_blocks
    encoders = (role, "encoders")
    places = Places(
        embedding=(*encoders, "embeddings", m),
        blocks=(*encoders, "blocks", SHARED if shared else m),
        norm=(*encoders, "norms", m),
    )
    found = encoder_entries(EncoderConfig(model.encoder, architecture.views[m]), places)
    prefix = f"{PREFIX[m]}_{role}.backbone."
    return [
        dataclasses.replace(entry, name=prefix + backbone_name(entry.name, m)) for entry in found
    ]


def backbone_name(name: str, modality: Modality) -> str:
    """Returns the authors' name of a backbone's tensor, from its name in `tensor_names`."""
    for theirs, ours in names_of_backbone(modality).items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def names_of_backbone(modality: Modality) -> dict[str, str]:
    """Returns {authors' prefix: prefix in `tensor_names`} of a backbone's tensors."""
    return {
        "enc_pos_embed": "pos_embed",
        f"{_PATCH_EMBEDDING[modality]}.": "patch_embed.",
        "encoder.blocks.": "blocks.",
        "encoder_norm.": "norm.",
    }


def _head(architecture: Architecture, m: Modality, role: str) -> list[Entry]:
    name, path = f"{PREFIX[m]}_{role}.head", (role, "heads", m)
    # the authors' MLP is a list of (linear, norm, activation); all norms are the same module
    return [
        *(
            entry
            for i in range(architecture.model.head.layers)
            for entry in linear_entries(f"{name}.mlp.{3 * i}", (*path, "linears", i))
        ),
        *norm_entries(f"{name}.mlp.1", (*path, "norm")),
        entry_of(
            f"{name}.last_layer.weight_v", (*path, "directions"), lambda a: a.T, lambda a: a.T
        ),
    ]


def _decoder(architecture: Architecture, m: Modality) -> list[Entry]:
    model, name = architecture.model, f"{PREFIX[m]}_ae."
    values, path = architecture.views[m].patch_values, ("student", "decoders", m)
    found = decoder_entries(model.encoder.width, model.decoder, values)
    return [
        dataclasses.replace(entry, name=name + entry.name, path=(*path, *entry.path))
        for entry in found
    ]


def decoder_entries(width: int, decoder: Transformer, values: int) -> list[Entry]:
    """Returns the entries of a decoder's tensors, from the root of its own tree.

    Args:
      width: of the encoder.
      decoder: sizes of the decoder.
      values: numbers in a patch.
    """
    found = [
        entry_of("mask_token", ("mask_token",), lambda a: a[0], lambda a: a[None]),
        entry_of("dec_pos_embed", ("positions",), lambda a: a[0], lambda a: a[None]),
        *block_entries("decoder.blocks", ("blocks",), decoder),
    ]
    if width != decoder.width:
        found += linear_entries("mid_proj", ("embed",))
    if decoder.width != values:
        found += linear_entries("out_proj", ("output",))
    return found


def _find(name: str, tensors: Mapping[str, Array], aliases: Mapping[str, str]) -> Array:
    if name in tensors:
        return tensors[name]
    if aliases.get(name) in tensors:
        return tensors[aliases[name]]
    if name in CENTERS:
        raise UserError(f"The authors' file has no tensor {name}: give a file with the centers.")
    raise UserError(
        f"The authors' file has no tensor {name}: give a config with the variant and depths of the"
        " file."
    )


def _refuse_unknown(
    tensors: Mapping[str, Array], aliases: Mapping[str, str], known: set[str]
) -> None:
    known = known | {aliases[name] for name in known if name in aliases}
    for name, value in tensors.items():
        if name in known or aliases.get(name) in known:
            continue
        if name.endswith("last_layer.weight_g"):
            if not np.all(value == 1):
                raise UserError(
                    f"{name} has values other than 1, but here a head's gain is fixed at 1:"
                    " give another file."
                )
            continue
        raise UserError(
            f"The network has no tensor {name}: give a config with the variant and depths of the"
            " file."
        )
