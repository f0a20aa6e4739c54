"""Handwritten digits: the 8x8 images that come with scikit-learn, split by writer."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import numpy as np

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

# The 1,797 images are 14 filled-in copies of one form: the labels repeat the same sequence of
# about 130 digits 14 times (a few boxes missing), and this is where the ninth copy begins. The
# data set's description gives 13 writers without saying who filled which form, so what the split
# promises is: no form is in both parts.
FIRST_TEST_IMAGE = 1029


@dataclasses.dataclass(frozen=True)
class Handwriting:
    """Ink of n images, float32 [n, 8, 8] in 0..1, and the digits they show, int64 [n]."""

    ink: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def by_label(self) -> tuple[np.ndarray, ...]:
        """For each digit the indices of its images."""
        return tuple(np.flatnonzero(self.labels == label) for label in range(10))


@functools.cache
def load(split: Split) -> Handwriting:
    """Returns the images of one split; the other split's writers filled other forms."""
    from sklearn import datasets  # takes seconds to start, and runs on made clips don't need it

    images, labels = datasets.load_digits(return_X_y=True)
    part = slice(None, FIRST_TEST_IMAGE) if split == "train" else slice(FIRST_TEST_IMAGE, None)
    ink = (images[part] / 16).astype(np.float32).reshape(-1, 8, 8)
    return Handwriting(ink, labels[part])
