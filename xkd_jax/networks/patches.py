"""Views to flattened patches, and random masking of tokens."""

from __future__ import annotations

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp


def patchify_video(video: jax.Array, patch: tuple[int, ...]) -> jax.Array:
    """Cuts [batch, frames, height, width, colour] into cuboids [batch, (t h w), (pt ph pw c)]."""
    pt, ph, pw = patch
    return einops.rearrange(
        video, "b (t pt) (h ph) (w pw) c -> b (t h w) (pt ph pw c)", pt=pt, ph=ph, pw=pw
    )


def patchify_audio(audio: jax.Array, patch: tuple[int, ...]) -> jax.Array:
    """Cuts [batch, mel, time] into patches [batch, (mel time), (ph pw)]."""
    ph, pw = patch
    return einops.rearrange(audio, "b (h ph) (w pw) -> b (h w) (ph pw)", ph=ph, pw=pw)


class Masking(NamedTuple):
    """Which tokens of each sample the encoder sees.

    keep: int32 [batch, kept], indices of the kept tokens, in the order the encoder sees them.
    restore: int32 [batch, tokens], position of each token in (kept tokens, then removed ones).
    """

    keep: jax.Array
    restore: jax.Array

    @property
    def removed(self) -> jax.Array:
        """float32 [batch, tokens]: 1 where the token was removed, 0 where it was kept."""
        return (self.restore >= self.keep.shape[1]).astype(jnp.float32)


def random_masking(noise: jax.Array, ratio: float) -> Masking:
    """Keeps the round(tokens * (1 - ratio)) tokens of smallest `noise` [batch, tokens].

    Source: spec section 2, after MAE's per-sample shuffling.
    """
    kept = round(noise.shape[1] * (1 - ratio))
    shuffle = jnp.argsort(noise, axis=1)
    return Masking(keep=shuffle[:, :kept], restore=jnp.argsort(shuffle, axis=1))


def gather_tokens(tokens: jax.Array, index: jax.Array) -> jax.Array:
    """Picks tokens [batch, n, width] by `index` [batch, m] of each sample: [batch, m, width]."""
    return jnp.take_along_axis(tokens, index[:, :, None], axis=1)
