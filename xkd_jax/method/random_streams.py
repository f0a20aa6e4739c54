"""The random numbers of a run on the device."""

from __future__ import annotations

import jax

from data_pipelines.loader_config import MODALITIES, Modality

# The numbers of the streams are part of what makes a run reproducible: the initial parameters come
# from stream 0, and the masks of modality i from stream 1 + i.
INITIALIZE = 0


def mask_stream(modality: Modality) -> int:
    """The stream that masks this modality's tokens."""
    return INITIALIZE + 1 + MODALITIES.index(modality)


def stream_key(seed: int, stream: int, step: jax.Array | int = 0) -> jax.Array:
    """The key of one stream at one step: fold_in(fold_in(seed, step), stream)."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
