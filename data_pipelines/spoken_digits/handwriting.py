"""Handwritten digits: the 8x8 images of scikit-learn, split by writer."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

# The 1,797 images come from 14 copies of one form: the labels repeat a sequence of about 130 digits
# 14 times, with a few gaps. This is the first image of the ninth copy. The data set's description
# names 13 writers but not their forms, so the split guarantees only that no form is in both parts.
FIRST_TEST_IMAGE = 1029


@dataclasses.dataclass(frozen=True)
class Handwriting:
    """Ink of n images, float32 [n, 8, 8] in 0..1, and the digits they show, int64 [n]."""

    ink: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def by_label(self) -> tuple[np.ndarray, ...]:
        """Indices of the images of each digit, int64 [n] each."""
        return tuple(np.flatnonzero(self.labels == label) for label in range(10))


@functools.cache
def load(split: Split) -> Handwriting:
    """Returns the images of one split; no form is in both splits."""
    from sklearn import (
        datasets,
    )  # imported here, as it takes seconds and finished data sets do not need it

    images, labels = datasets.load_digits(return_X_y=True)
    part = slice(None, FIRST_TEST_IMAGE) if split == "train" else slice(FIRST_TEST_IMAGE, None)
    ink = (images[part] / 16).astype(np.float32).reshape(-1, 8, 8)
    return Handwriting(ink, labels[part])
