"""Names and layouts of an encoder's tensors in PyTorch's files, and their places in our trees.

The names are those of timm's ViT, which most files have up to prefixes: `cls_token`, `pos_embed`,
`patch_embed.proj`, `blocks.I.{norm1,attn.qkv,attn.proj,norm2,mlp.fc1,mlp.fc2}`, and `norm`, or
`fc_norm` after the pooling. A linear layer's weight is [outputs, inputs].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.networks.tree import Tree

Array = np.ndarray
Path = tuple[str | int, ...]
Convert = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
      name: name in a state dict.
      path: keys in our tree.
      layer: index in a stack of blocks, or None.
      ours: converts PyTorch's layout to ours.
      theirs: converts our layout to PyTorch's.
    """

    name: str
    path: Path
    layer: int | None
    ours: Convert
    theirs: Convert


class Places(NamedTuple):
    """Paths of an encoder's parts in a tree; the defaults are those of `Encoder`."""

    embedding: Path = ("embedding",)
    blocks: Path = ("blocks",)
    norm: Path = ("norm",)


_ENCODER = Places()


def encoder_entries(config: EncoderConfig, places: Places = _ENCODER) -> list[Entry]:
    """Returns the entries of all tensors of an encoder."""
    found = linear_entries("patch_embed.proj", (*places.embedding, "projection"))
    tables = {"pos_embed": "positions"}
    if config.special_tokens:
        tables["cls_token"] = "cls"
    for name, key in tables.items():  # they have a batch axis of size 1
        found.append(entry_of(name, (*places.embedding, key), lambda a: a[0], lambda a: a[None]))
    found += block_entries("blocks", places.blocks, config.transformer)
    if config.norm != "none":
        found += norm_entries("fc_norm" if config.norm == "pooled" else "norm", places.norm)
    return found


def block_entries(name: str, path: Path, config: Transformer) -> Iterator[Entry]:
    """Yields the entries of all tensors of a stack of blocks, `name.I.*`."""
    width, heads = config.width, config.heads
    each = width // heads
    layers = (*path, "layers")
    for i in range(config.depth):
        block = f"{name}.{i}"
        yield from norm_entries(f"{block}.norm1", (*layers, "norm1"), i)
        yield entry_of(
            f"{block}.attn.qkv.weight",
            (*layers, "qkv", "kernel"),
            lambda a: a.T.reshape(width, 3, heads, each),
            lambda a: a.reshape(width, 3 * width).T,
            i,
        )
        if config.qkv_bias:
            yield entry_of(
                f"{block}.attn.qkv.bias",
                (*layers, "qkv", "bias"),
                lambda a: a.reshape(3, heads, each),
                lambda a: a.reshape(3 * width),
                i,
            )
        yield entry_of(
            f"{block}.attn.proj.weight",
            (*layers, "proj", "kernel"),
            lambda a: a.T.reshape(heads, each, width),
            lambda a: a.reshape(width, width).T,
            i,
        )
        yield entry_of(f"{block}.attn.proj.bias", (*layers, "proj", "bias"), layer=i)
        yield from norm_entries(f"{block}.norm2", (*layers, "norm2"), i)
        for fc in ("fc1", "fc2"):
            yield from linear_entries(f"{block}.mlp.{fc}", (*layers, fc), i)


def entry_of(
    name: str,
    path: Path,
    ours: Convert = lambda a: a,
    theirs: Convert = lambda a: a,
    layer: int | None = None,
) -> Entry:
    """Returns an entry; without conversions, both layouts are equal.

    Args:
      name: name in a state dict.
      path: keys in our tree.
      ours: converts their layout to ours.
      theirs: converts our layout to theirs.
      layer: index in a stack of blocks, or None.
    """
    return Entry(name, path, layer, ours, theirs)


def linear_entries(name: str, path: Path, layer: int | None = None) -> list[Entry]:
    """Returns the entries of a linear layer's weight and bias."""
    return [
        entry_of(f"{name}.weight", (*path, "kernel"), lambda a: a.T, lambda a: a.T, layer),
        entry_of(f"{name}.bias", (*path, "bias"), layer=layer),
    ]


def norm_entries(name: str, path: Path, layer: int | None = None) -> list[Entry]:
    """Returns the entries of a LayerNorm's scale and bias.

    Args:
      name: its name in a state dict.
      path: its keys in our tree.
      layer: index in a stack of blocks, or None.
    """
    return [
        entry_of(f"{name}.weight", (*path, "scale"), layer=layer),
        entry_of(f"{name}.bias", (*path, "bias"), layer=layer),
    ]


def tree_of(entries: Sequence[Entry], find: Callable[[str], Array]) -> Tree:
    """Returns the tree of entries, with tensors from `find(name)`."""
    tree: Tree = {}
    stacks: dict[Path, dict[int, Array]] = {}
    for entry in entries:
        value = entry.ours(find(entry.name))
        if entry.layer is None:
            _put(tree, entry.path, value)
        else:
            stacks.setdefault(entry.path, {})[entry.layer] = value
    for path, layers in stacks.items():
        _put(tree, path, np.stack([layers[i] for i in range(len(layers))]))
    return tree


def tensors_of(entries: Sequence[Entry], tree: Tree) -> dict[str, Array]:
    """Returns the tensors of entries by name; the exact inverse of `tree_of`."""
    leaves: dict[Path, Array] = {}
    found = {}
    for entry in entries:
        if entry.path not in leaves:
            leaves[entry.path] = np.asarray(_get(tree, entry.path))
        value = leaves[entry.path]
        found[entry.name] = entry.theirs(value if entry.layer is None else value[entry.layer])
    return found


def _put(tree: dict[Any, Any], path: Path, value: Array) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _get(tree: dict[Any, Any], path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree
