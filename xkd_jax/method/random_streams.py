"""Random streams of a run, on the device."""

from __future__ import annotations

import jax

from data_pipelines.loader_config import MODALITIES, Modality

# Reproducibility needs constant numbers: stream 0 is for initial parameters, stream 1 + i for masks
# of modality i.
INITIALIZE = 0


def mask_stream(modality: Modality) -> int:
    """Returns the number of the stream for this modality's masks."""
    return INITIALIZE + 1 + MODALITIES.index(modality)


def stream_key(seed: int, stream: int, step: jax.Array | int = 0) -> jax.Array:
    """Returns the scalar typed PRNG key fold_in(fold_in(key(seed), step), stream).

    Args:
      seed: the run's seed.
      stream: number of the stream.
      step: number of updates made, int32 scalar.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
