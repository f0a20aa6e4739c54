"""Tensors of a file that are read on demand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

# Bounds that no network reaches; larger sizes mean an attack or damage.
MOST_AXES = 16
MOST_SIZE = 2**48


class WeightFileError(ValueError):
    """A file that can't be used: what is wrong with it and what to do, without its name."""

    def __init__(self, fault: str, remedy: str = "give an intact copy"):
        super().__init__(f"{fault}; {remedy}")


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor that was not read yet.

    Attributes:
      shape: its shape.
      dtype: its dtype; bfloat16 is that of `ml_dtypes`.
      read: returns it as a new array in C order, or raises `WeightFileError`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_sizes(sizes: object) -> tuple[int, ...]:
    """Returns the shape in a file, as a tuple of integers.

    Raises:
      WeightFileError: it is not a shape, or is too large for a file.
    """
    if not isinstance(sizes, list | tuple) or len(sizes) > MOST_AXES:
        raise WeightFileError("the shape of a tensor is no list of sizes")
    for size in sizes:
        if type(size) is not int or not 0 <= size <= MOST_SIZE:
            raise WeightFileError("the shape of a tensor has a size that is no whole number")
    if math.prod(sizes) > MOST_SIZE:
        raise WeightFileError("the shape of a tensor is too large for any file")
    return tuple(sizes)
