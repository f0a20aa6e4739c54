"""Parameter trees: nested dictionaries of arrays, named as the modules that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import DictKey, SequenceKey

from xkd_jax.networks.blocks import STACKED

# Keys are strings, or integers in a list of modules; leaves are arrays, shapes or shardings.
Tree = dict[str, Any]

# A field of a structure of arrays; JAX also puts shapes and shardings there.
if TYPE_CHECKING:
    Leaf = jax.Array
else:
    Leaf = Any


def path_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the keys of a leaf's path, as strings."""
    return tuple(
        str(k.key if isinstance(k, DictKey) else k.idx)
        for k in path
        if isinstance(k, DictKey | SequenceKey)
    )


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the leaf's first axis is the layer of a stack of blocks."""
    return STACKED in path_names(path)
