"""Reading of golden files; type, shape and range of each array are checked before its use."""

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
    """The content of one file: arrays by name (.npz), or one JSON object."""

    path: str
    content: dict[str, Any]
    is_json: bool

    @classmethod
    def read(cls, path: str) -> GoldenFile:
        """Reads a file, without unpickling.

        Raises:
          UserError: the file can't be read, or is neither an .npz nor a JSON object.
        """
        try:
            data = Path(path).read_bytes()
            if data.startswith(_ZIP):
                with np.load(io.BytesIO(data), allow_pickle=False) as file:
                    return cls(path, {name: file[name] for name in file.files}, is_json=False)
            content = json.loads(data)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: give a golden file.") from None
        # for a damaged .npz, zip, zlib and NumPy raise many types
        except Exception as error:
            raise UserError(
                f"{path} is not a golden case ({type(error).__name__}: {error}): give an .npz or a"
                " .json with numbers of the authors' code."
            ) from None
        if not isinstance(content, dict):
            raise UserError(
                f"{path} is not a golden case (its JSON is not an object): give an .npz or a .json"
                " with numbers of the authors' code."
            )
        return cls(path, content, is_json=True)

    def damaged(self, why: str) -> UserError:
        """Returns the error of a damaged file; `why` is a clause such as "it lacks 'meta'"."""
        return UserError(f"{self.path} is a damaged golden file ({why}): copy it again.")


class Fields:
    """Takes the arrays of a file one by one, and checks type, shape and range of each.

    A name in a shape is a size that all arrays share; the first array with the name sets it.
    """

    def __init__(self, file: GoldenFile, prefix: str = ""):
        """Selects the arrays whose names begin with `prefix`; methods take names without it."""
        self._file, self._prefix = file, prefix
        self._left = {name for name in file.content if name.startswith(prefix)}
        self.sizes: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._left

    def names(self) -> list[str]:
        """Sorted names of arrays that were not taken yet."""
        return sorted(name.removeprefix(self._prefix) for name in self._left)

    def whole(
        self, name: str, *shape: int | str, low: float = -math.inf, high: float = math.inf
    ) -> np.ndarray:
        """Takes integers from `low` to `high`, and returns them as int64."""
        return self._take(name, _INTEGERS, shape, low, high).astype(np.int64)

    def real(
        self, name: str, *shape: int | str, low: float = -math.inf, high: float = math.inf
    ) -> np.ndarray:
        """Takes finite numbers from `low` to `high`, and returns them with their dtype."""
        return self._take(name, _NUMBERS, shape, low, high)

    def levels(self, name: str, *shape: int | str) -> np.ndarray:
        """Takes integers from 0 to 255, and returns them as uint8."""
        found = self._take(name, _INTEGERS, shape, 0, 255)
        return found.astype(np.uint8)

    def flag(self, name: str) -> bool:
        """Takes one boolean."""
        return bool(self._take(name, "b", (), 0, 1))

    def finish(self) -> None:
        """Checks that all arrays were taken.

        Raises:
          UserError: an array was not taken, and would not be compared.
        """
        if self._left:
            self.refuse(f"{min(self._left)!r} is not an array of this kind of file")

    def refuse(self, why: str) -> NoReturn:
        """Refuses the file.

        Raises:
          UserError: always, with `why`.
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
            self.refuse(f"{name!r} has dtype {array.dtype}")
        self._check_shape(name, array.shape, tuple(shape))
        if array.size and not (low <= array.min() and array.max() <= high):
            self.refuse(f"{name!r} has values outside of {low:g} to {high:g}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            self.refuse(f"{name!r} has values that are not finite")
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
            self.refuse(f"{name!r} has shape {list(found)}, not [{wanted}]")
