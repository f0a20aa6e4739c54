"""Layouts of tensors that are not those of `tensor_names`."""

from __future__ import annotations

import einops
import numpy as np


def video_kernel(kernel: np.ndarray) -> np.ndarray:
    """A Conv3d's kernel [width, 3, frames, height, width] as a linear weight [width, values]."""
    return einops.rearrange(kernel, "d c t h w -> d (t h w c)")


def image_kernel(kernel: np.ndarray) -> np.ndarray:
    """A Conv2d's kernel [width, 3, height, width] as a linear weight [width, values]."""
    return einops.rearrange(kernel, "d c h w -> d (h w c)")


def spectrogram_kernel(kernel: np.ndarray, *, time_first: bool = False) -> np.ndarray:
    """A Conv2d's kernel [width, 1, ...] over (mel, time), or (time, mel), as a linear weight."""
    axes = "d 1 t m" if time_first else "d 1 m t"
    return einops.rearrange(kernel, f"{axes} -> d (m t)")


def query_and_value_bias(query: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns the bias [3 width] of queries, keys and values, with zeros for the keys.

    Args:
      query: bias of the queries, [width].
      value: bias of the values, [width].
    """
    return np.concatenate([query, np.zeros_like(query), value])


def sinusoid(tokens: int, width: int) -> np.ndarray:
    """Positions [1, tokens, width] that VideoMAE computes: sines and cosines of the token's number.

    Channel i of token n is sin (even i) or cos (odd i) of n / 10000^(2 (i // 2) / width).
    """
    channel = np.arange(width)
    angle = np.arange(tokens)[:, None] / 10000.0 ** (2 * (channel // 2) / width)
    table = np.where(channel % 2 == 0, np.sin(angle), np.cos(angle))
    return table[None].astype(np.float32)
