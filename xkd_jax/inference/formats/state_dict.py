"""The tensors of one network in a file, with a record of which were taken."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from xkd_jax.inference.weight_files.tensors import LazyTensor

# Where files keep the network beside an optimizer and counts, in this order.
_ROOTS = ("model", "module", "state_dict", "encoder")
# What wrappers put before every name.
_WRAPPERS = ("module.", "backbone.", "model.")
_MOST_LISTED = 5
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class StateDict:
    """Tensors by name; `take` reads one, `leave` sets some aside, `finish` refuses the rest."""

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, LazyTensor],
        taken: Callable[[str], object] = lambda name: None,
    ):
        """Takes the tensors of a file, which must stay open.

        Args:
          path: of the file, for error messages.
          tensors: by name.
          taken: called with the name of each that is read.
        """
        self.path = path
        self._tell_taken = taken
        self._tensors = dict(tensors)
        self._taken: set[str] = set()
        self._left: dict[str, int] = {}

    @classmethod
    def found_in(cls, path: str, root: Mapping[Any, Any]) -> StateDict:
        """Finds the network's tensors in what a file holds, and takes wrappers off their names.

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
            f"{path} holds no tensors, neither by themselves nor under {', '.join(_ROOTS)}: give"
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
        """How many tensors were read."""
        return len(self._taken)

    @property
    def left(self) -> dict[str, int]:
        """How many tensors were set aside, by what they are."""
        return dict(self._left)

    def below(self, prefix: str) -> StateDict:
        """The tensors whose names begin with a prefix, without it; what it takes is taken here."""
        return StateDict(
            self.path,
            {n.removeprefix(prefix): t for n, t in self._tensors.items() if n.startswith(prefix)},
            taken=lambda name: self._note(prefix + name),
        )

    def _note(self, name: str) -> None:
        self._taken.add(name)
        self._tell_taken(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, which is not read.

        Raises:
          UserError: it isn't there.
        """
        return self._tensor(name).shape

    def depth(self, pattern: str) -> int:
        """How many blocks there are: one more than the largest number that `pattern` matches."""
        found = (re.match(pattern, name) for name in self._tensors)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as float32, which is not taken thereby.

        Raises:
          UserError: it isn't there, holds whole numbers, or something not finite.
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
        """Returns a tensor as float32, as one of the encoder's; errors are those of `read`."""
        value = self.read(name)
        self._note(name)
        return value

    def leave(self, what: str, *beginnings: str) -> None:
        """Sets tensors aside whose names begin so; `what` they are is for the report."""
        count = sum(name.startswith(beginnings) for name in self._tensors)
        if count:
            self._left[what] = self._left.get(what, 0) + count
        for name in [name for name in self._tensors if name.startswith(beginnings)]:
            del self._tensors[name]

    def finish(self, kind: str) -> None:
        """Ends the reading of a network of some kind.

        Raises:
          UserError: tensors are left that nothing is known of.
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
                f"{self.path} has no tensor {name}, which its other names call for: give the whole"
                " file."
            )
        return self._tensors[name]


def listed(names: Iterable[str]) -> str:
    """Some of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


def _unwrapped(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    while prefix := next((p for p in _WRAPPERS if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


@dataclasses.dataclass(frozen=True)
class Given:
    """What a person says of a file that doesn't say it.

    Attributes:
      heads: of the attention.
      video: fields of `VideoConfig`, such as frames, size, patch.
      audio: fields of `AudioConfig`, such as mels, columns, patch.
    """

    heads: int | None = None
    video: Mapping[str, Any] | None = None
    audio: Mapping[str, Any] | None = None
