"""The random numbers of a run on the device."""

from __future__ import annotations

import enum

import jax

from data_pipelines.loader_config import Modality


class Stream(enum.IntEnum):
    """Every use of random numbers; the values are part of what makes a run reproducible."""

    INITIALIZE = 0
    MASK_VIDEO = 1
    MASK_AUDIO = 2

    @classmethod
    def mask(cls, modality: Modality) -> Stream:
        """The stream that masks this modality's tokens."""
        return cls[f"MASK_{modality.upper()}"]


def stream_key(seed: int, stream: Stream, step: jax.Array | int = 0) -> jax.Array:
    """The key of one stream at one step: fold_in(fold_in(seed, step), stream)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
