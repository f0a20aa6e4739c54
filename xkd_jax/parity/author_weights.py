"""The authors' parameter names, and the path of each of their tensors in our parameter trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.pretraining import Config, Transformer
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.tree import Tree

Array = np.ndarray
PREFIX: dict[Modality, str] = {"video": "vid", "audio": "aud"}
CENTERS = {"vt2as_ce_loss.center": "video_to_audio", "at2vs_ce_loss.center": "audio_to_video"}
_PATCH_EMBEDDING: dict[Modality, str] = {"video": "cuboid_embed", "audio": "patch_embed"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the authors' networks.

    Attributes:
      name: name in the authors' state dict.
      path: keys in our tree, from the roots "student", "teacher" and "centers".
      layer: index in a stack of blocks, or None.
      ours: converts the authors' layout to ours.
      theirs: converts our layout to the authors'.
    """

    name: str
    path: tuple[str | int, ...]
    layer: int | None
    ours: Callable[[Array], Array]
    theirs: Callable[[Array], Array]


def entries(config: Config) -> list[Entry]:
    """Returns the entries of all parameters of student and teacher, and of the centers.

    Shared blocks have an entry for each modality, with the same path.
    """
    found: list[Entry] = []
    for m in MODALITIES:
        for role in ("student", "teacher"):
            found += _backbone(config, m, role)
            found += _head(config, m, role)
        found += _decoder(config, m)
    for name, direction in CENTERS.items():
        found.append(_entry(name, ("centers", direction), lambda a: a[0], lambda a: a[None]))
    return found


def load(tensors: Mapping[str, Array], aliases: Mapping[str, str], config: Config) -> Tree:
    """Returns {"student", "teacher", "centers"} with tensors under the authors' names.

    Args:
      tensors: {name: array}; one name of a tensor with several names suffices.
      aliases: {name: another name of the same tensor}.
      config: sizes of the networks.

    Raises:
      UserError: a tensor is missing or is not part of the networks.
    """
    tree: Tree = {}
    stacks: dict[tuple[str | int, ...], dict[int, Array]] = {}
    table = entries(config)
    for entry in table:
        value = entry.ours(_find(entry.name, tensors, aliases))
        if entry.layer is None:
            _put(tree, entry.path, value)
        else:
            stacks.setdefault(entry.path, {})[entry.layer] = value
    for path, layers in stacks.items():
        _put(tree, path, np.stack([layers[i] for i in range(len(layers))]))
    _refuse_unknown(tensors, aliases, {entry.name for entry in table})
    return tree


def export(tree: Tree, config: Config) -> dict[str, Array]:
    """Returns the tensors of a tree under the authors' names.

    Args:
      tree: one or more of the roots "student", "teacher" and "centers".
      config: sizes of the networks.
    """
    tree = jax.tree.map(np.asarray, tree)
    return {
        entry.name: entry.theirs(_get(tree, entry))
        for entry in entries(config)
        if entry.path[0] in tree
    }


def _entry(
    name: str,
    path: tuple[str | int, ...],
    ours: Callable[[Array], Array] = lambda a: a,
    theirs: Callable[[Array], Array] = lambda a: a,
    layer: int | None = None,
) -> Entry:
    return Entry(name, path, layer, ours, theirs)


def _linear(name: str, path: tuple[str | int, ...], layer: int | None = None) -> list[Entry]:
    return [
        _entry(f"{name}.weight", (*path, "kernel"), lambda a: a.T, lambda a: a.T, layer),
        _entry(f"{name}.bias", (*path, "bias"), layer=layer),
    ]


def _norm(name: str, path: tuple[str | int, ...], layer: int | None = None) -> list[Entry]:
    return [
        _entry(f"{name}.weight", (*path, "scale"), layer=layer),
        _entry(f"{name}.bias", (*path, "bias"), layer=layer),
    ]


def _backbone(config: Config, m: Modality, role: str) -> list[Entry]:
    model = config.model
    shared = model.shares_student_blocks if role == "student" else model.shares_teacher_blocks
    name, encoders = f"{PREFIX[m]}_{role}.backbone", (role, "encoders")
    embedding = (*encoders, "embeddings", m)
    blocks = (*encoders, "blocks", SHARED if shared else m)
    return [
        _entry(f"{name}.cls_token", (*embedding, "cls"), lambda a: a[0], lambda a: a[None]),
        _entry(
            f"{name}.enc_pos_embed", (*embedding, "positions"), lambda a: a[0], lambda a: a[None]
        ),
        *_linear(f"{name}.{_PATCH_EMBEDDING[m]}.proj", (*embedding, "projection")),
        *_blocks(f"{name}.encoder", blocks, model.encoder),
        *_norm(f"{name}.encoder_norm", (*encoders, "norms", m)),
    ]


def _blocks(name: str, path: tuple[str | int, ...], config: Transformer) -> Iterator[Entry]:
    width, heads = config.width, config.heads
    each = width // heads
    layers = (*path, "layers")
    for i in range(config.depth):
        block = f"{name}.blocks.{i}"
        yield from _norm(f"{block}.norm1", (*layers, "norm1"), i)
        yield _entry(
            f"{block}.attn.qkv.weight",
            (*layers, "qkv", "kernel"),
            lambda a: a.T.reshape(width, 3, heads, each),
            lambda a: a.reshape(width, 3 * width).T,
            i,
        )
        yield _entry(
            f"{block}.attn.proj.weight",
            (*layers, "proj", "kernel"),
            lambda a: a.T.reshape(heads, each, width),
            lambda a: a.reshape(width, width).T,
            i,
        )
        yield _entry(f"{block}.attn.proj.bias", (*layers, "proj", "bias"), layer=i)
        yield from _norm(f"{block}.norm2", (*layers, "norm2"), i)
        for fc in ("fc1", "fc2"):
            yield from _linear(f"{block}.mlp.{fc}", (*layers, fc), i)


def _head(config: Config, m: Modality, role: str) -> list[Entry]:
    name, path = f"{PREFIX[m]}_{role}.head", (role, "heads", m)
    # the authors' MLP is a list of (linear, norm, activation); all norms are the same module
    return [
        *(
            entry
            for i in range(config.model.head.layers)
            for entry in _linear(f"{name}.mlp.{3 * i}", (*path, "linears", i))
        ),
        *_norm(f"{name}.mlp.1", (*path, "norm")),
        _entry(f"{name}.last_layer.weight_v", (*path, "directions"), lambda a: a.T, lambda a: a.T),
    ]


def _decoder(config: Config, m: Modality) -> list[Entry]:
    model, view = config.model, config.modality(m)
    name, path = f"{PREFIX[m]}_ae", ("student", "decoders", m)
    found = [
        _entry(f"{name}.mask_token", (*path, "mask_token"), lambda a: a[0], lambda a: a[None]),
        _entry(f"{name}.dec_pos_embed", (*path, "positions"), lambda a: a[0], lambda a: a[None]),
        *_blocks(f"{name}.decoder", (*path, "blocks"), model.decoder),
    ]
    if model.encoder.width != model.decoder.width:
        found += _linear(f"{name}.mid_proj", (*path, "embed"))
    if model.decoder.width != view.patch_values:
        found += _linear(f"{name}.out_proj", (*path, "output"))
    return found


def _find(name: str, tensors: Mapping[str, Array], aliases: Mapping[str, str]) -> Array:
    if name in tensors:
        return tensors[name]
    if aliases.get(name) in tensors:
        return tensors[aliases[name]]
    if name in CENTERS:
        raise UserError(f"The authors' tensors lack {name}: give a file that has the centers.")
    raise UserError(
        f"The authors' tensors lack {name}: give a config with the variant and depths of the file."
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
                    f"{name} is not 1 everywhere, and the head's gain is fixed at 1: give another"
                    " file."
                )
            continue
        raise UserError(
            f"The network has no tensor {name}: give a config with the variant and depths of the"
            " file."
        )


def _put(tree: Tree, path: tuple[str | int, ...], value: Array) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: Tree, entry: Entry) -> Array:
    value = tree
    for key in entry.path:
        value = value[key]
    return value if entry.layer is None else value[entry.layer]
