"""Tensors of a file, which are read one by one when they are asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

# Bounds that no network meets; beyond them sizes are an attack or damage.
MOST_AXES = 16
MOST_SIZE = 2**48


class WeightFileError(ValueError):
    """What is wrong with a file, in a few words that follow its name in a sentence."""


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that is still in its file.

    Attributes:
      shape: its sizes.
      dtype: of its elements; bfloat16 is that of `ml_dtypes`.
      read: returns it as a new array in C order, or raises `WeightFileError`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_sizes(sizes: object) -> tuple[int, ...]:
    """Returns the shape that a file states, as a tuple of whole numbers.

    Raises:
      WeightFileError: it is none, or too large for any file.
    """
    if not isinstance(sizes, list | tuple) or len(sizes) > MOST_AXES:
        raise WeightFileError("a tensor's shape is no list of sizes")
    for size in sizes:
        if type(size) is not int or not 0 <= size <= MOST_SIZE:
            raise WeightFileError("a tensor's shape has a size that is no whole number")
    if math.prod(sizes) > MOST_SIZE:
        raise WeightFileError("a tensor's shape is too large for any file")
    return tuple(sizes)
