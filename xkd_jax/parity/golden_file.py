"""Reading of golden files: what they hold is checked before anything is computed from it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from data_pipelines.errors import UserError

# The first bytes of an .npz, which is a zip file.
_ZIP = b"PK"
_INTEGERS, _NUMBERS = "iu", "iuf"


@dataclasses.dataclass(frozen=True)
class GoldenFile:
    """One file in memory: arrays by name (.npz), or one JSON object."""

    path: str
    content: dict[str, Any]
    is_json: bool

    @classmethod
    def read(cls, path: str) -> GoldenFile:
        """Reads a file; nothing in it is unpickled.

        Raises:
          UserError: it can't be read, or is neither an .npz nor a JSON object.
        """
        try:
            data = Path(path).read_bytes()
            if data.startswith(_ZIP):
                with np.load(io.BytesIO(data), allow_pickle=False) as file:
                    return cls(path, {name: file[name] for name in file.files}, is_json=False)
            content = json.loads(data)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: name a golden file.") from None
        # a damaged .npz raises whatever its part of zip, zlib or NumPy finds first
        except Exception as error:
            raise UserError(
                f"{path} is no golden case ({type(error).__name__}: {error}): give an .npz or a"
                " .json with numbers of the authors' code."
            ) from None
        if not isinstance(content, dict):
            raise UserError(
                f"{path} is no golden case (its JSON is no object): give an .npz or a .json with"
                " numbers of the authors' code."
            )
        return cls(path, content, is_json=True)

    def damaged(self, why: str) -> UserError:
        """The error that says what is wrong with the file."""
        return UserError(f"{self.path} is a damaged golden file: {why}; get it again.")


class Fields:
    """Takes arrays out of a file one by one and checks type, shape and range of each.

    A name in a shape stands for one size throughout, given by the first array that has it.
    """

    def __init__(self, file: GoldenFile, prefix: str = ""):
        """Takes the arrays whose names begin with `prefix`, which is left off in `take`."""
        self._file, self._prefix = file, prefix
        self._left = {name for name in file.content if name.startswith(prefix)}
        self.sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._left

    def names(self) -> list[str]:
        """What has not been taken, sorted."""
        return sorted(name.removeprefix(self._prefix) for name in self._left)

    def whole(
        self, name: str, *shape: int | str, low: float = -math.inf, high: float = math.inf
    ) -> np.ndarray:
        """Takes integers of that shape, `low` to `high`, as int64."""
        return self._take(name, _INTEGERS, shape, low, high).astype(np.int64)

    def real(
        self, name: str, *shape: int | str, low: float = -math.inf, high: float = math.inf
    ) -> np.ndarray:
        """Takes finite numbers of that shape, `low` to `high`, as they are stored."""
        return self._take(name, _NUMBERS, shape, low, high)

    def levels(self, name: str, *shape: int | str) -> np.ndarray:
        """Takes uint8 values of that shape."""
        found = self._take(name, _INTEGERS, shape, 0, 255)
        return found.astype(np.uint8)

    def flag(self, name: str) -> bool:
        """Takes one truth value."""
        return bool(self._take(name, "b", (), 0, 1))

    def finish(self) -> None:
        """Raises:
        UserError: an array was not taken, so that it would not be compared.
        """
        if self._left:
            self.refuse(f"{min(self._left)!r} is no part of such a file")

    def refuse(self, why: str) -> NoReturn:
        """Raises:
        UserError: always, with what is wrong.
        """
        raise self._file.damaged(why)

    def _take(
        self, name: str, kinds: str, shape: Iterable[int | str], low: float, high: float
    ) -> np.ndarray:
        name = self._prefix + name
        if name not in self._left:
            self.refuse(f"it lacks {name!r}")
        self._left.remove(name)
        array = self._file.content[name]
        if array.dtype.kind not in kinds:
            self.refuse(f"{name!r} is of type {array.dtype}")
        self._check_shape(name, array.shape, tuple(shape))
        if array.size and not (low <= array.min() and array.max() <= high):
            self.refuse(f"{name!r} has values outside of {low:g} to {high:g}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            self.refuse(f"{name!r} has values that are no finite numbers")
        return array

    def _check_shape(self, name: str, found: tuple[int, ...], shape: tuple[int | str, ...]) -> None:
        fits = len(found) == len(shape) and all(
            size > 0 and size == (self.sizes.setdefault(n, size) if isinstance(n, str) else n)
            for size, n in zip(found, shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(
                str(self.sizes.get(n, n) if isinstance(n, str) else n) for n in shape
            )
            self.refuse(f"{name!r} has the shape {list(found)} in place of [{wanted}]")
