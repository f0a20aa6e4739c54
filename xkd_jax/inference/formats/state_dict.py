"""The tensors of one network in a file, with a count of those that were taken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from xkd_jax.inference.weight_files.tensors import LazyTensor

# Keys of the network in files with optimizer and counters, in this order.
_ROOTS = ("model", "module", "state_dict", "encoder")
# Prefixes of names by wrappers.
_WRAPPERS = ("module.", "backbone.", "model.")
_MOST_LISTED = 5
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class StateDict:
    """Tensors by name; `take` reads one, `leave` counts unused ones, `finish` refuses others."""

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, LazyTensor],
        taken: Callable[[str], object] = lambda name: None,
    ):
        """Sets the tensors of a file, which must stay open.

        Args:
          path: of the file, for messages.
          tensors: {name: tensor}.
          taken: called with the name of each tensor that is taken.
        """
        self.path = path
        self._tell_taken = taken
        self._tensors = dict(tensors)
        self._taken: set[str] = set()
        self._left: dict[str, int] = {}

    @classmethod
    def found_in(cls, path: str, root: Mapping[Any, Any]) -> StateDict:
        """Finds the network's tensors in a file's content, and removes prefixes of wrappers.

        Args:
          path: of the file, for messages.
          root: content of the file.

        Raises:
          UserError: there are no tensors.
        """
        candidates = [root, *(root[name] for name in _ROOTS if isinstance(root.get(name), dict))]
        for candidate in candidates:
            tensors = {
                name: value
                for name, value in candidate.items()
                if isinstance(name, str) and isinstance(value, LazyTensor)
            }
            if tensors:
                return cls(path, _unwrapped(tensors))
        raise UserError(
            f"{path} holds no tensors, neither at its top level nor under {', '.join(_ROOTS)}: give"
            " the file of a network's weights."
        )

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    @property
    def taken(self) -> int:
        """Number of tensors that were taken."""
        return len(self._taken)

    @property
    def left(self) -> dict[str, int]:
        """{kind: number of tensors that were left}."""
        return dict(self._left)

    def below(self, prefix: str) -> StateDict:
        """Returns the tensors whose names begin with a prefix, without it; taking is shared."""
        return StateDict(
            self.path,
            {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)},
            taken=lambda name: self._note(prefix + name),
        )

    def _note(self, name: str) -> None:
        self._taken.add(name)
        self._tell_taken(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor, without reading it.

        Raises:
          UserError: the tensor is missing.
        """
        return self._tensor(name).shape

    def depth(self, pattern: str) -> int:
        """Returns the number of blocks: 1 + the largest number that `pattern` matches."""
        found = (re.match(pattern, name) for name in self._tensors)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as float32, without taking it.

        Raises:
          UserError: the tensor is missing, has an integer dtype, or values that are not finite.
        """
        tensor = self._tensor(name)
        if tensor.dtype.name not in _FLOATS:
            raise UserError(f"{self.path} has {name} in {tensor.dtype.name}: give float weights.")
        value = tensor.read().astype(np.float32)
        if not np.isfinite(value).all():
            raise UserError(
                f"{self.path} has {name} with values that are not finite: give another file."
            )
        return value

    def take(self, name: str) -> np.ndarray:
        """Takes a tensor of the encoder and returns it as float32; errors are those of `read`."""
        value = self.read(name)
        self._note(name)
        return value

    def leave(self, what: str, *beginnings: str) -> None:
        """Counts tensors with a prefix that are not taken as left, under the kind `what`."""
        count = sum(
            name.startswith(beginnings) for name in self._tensors if name not in self._taken
        )
        if count:
            self._left[what] = self._left.get(what, 0) + count
        for name in [name for name in self._tensors if name.startswith(beginnings)]:
            del self._tensors[name]

    def finish(self, kind: str) -> None:
        """Checks that all tensors were taken or left.

        Args:
          kind: name of the network, for messages.

        Raises:
          UserError: there are other tensors.
        """
        unknown = sorted(set(self._tensors) - self._taken)
        if unknown:
            raise UserError(
                f"{self.path} looks like {kind}, but has tensors that such a network lacks"
                f" ({listed(unknown)}): give weights of a kind that docs/inference.md lists."
            )

    def _tensor(self, name: str) -> LazyTensor:
        if name not in self._tensors:
            raise UserError(
                f"{self.path} has no tensor {name}, which its other tensors require: give the whole"
                " file."
            )
        return self._tensors[name]


def listed(names: Iterable[str]) -> str:
    """Returns some of the names, and the number of the others, as text."""
    names = list(names)
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _unwrapped(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    while prefix := next((p for p in _WRAPPERS if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
