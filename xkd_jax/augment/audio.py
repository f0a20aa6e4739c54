"""Audio views: volume, normalisation, and the random resized crop of the spectrogram."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from xkd_jax.config import AudioAugment, AudioConfig

# log_mel = code / 2048 - 16 with a floor of 2^-23 under the power (`data_pipelines.schema`).
_STEP, _OFFSET = 2.0**-11, 16.0
_FLOOR = 2.0**-23
_CUBIC = -0.75  # torch's and OpenCV's coefficient of the bicubic kernel


def augment_audio(
    audio: AudioConfig, augment: AudioAugment, view: dict[str, jax.Array]
) -> jax.Array:
    """Returns float32 [B, mels, columns], normalised by `audio.mean` and `audio.std`.

    Args:
      audio: the config's.
      augment: that of the view: its canvas.
      view: spectrogram and draws of `data_pipelines.views`, with a leading axis of samples.
    """
    log_mel = view["log_mel"].astype(jnp.float32) * _STEP - _OFFSET
    if "gain" in view:
        log_mel = _amplify(log_mel, view["gain"])
    log_mel = (log_mel - audio.mean) / audio.std
    if "box" in view:
        log_mel = _crop(log_mel, view["box"], augment.canvas)
    return log_mel


def _amplify(log_mel: jax.Array, gain: jax.Array) -> jax.Array:
    """The log-mel of the waveform times `gain` [B]: its power above the floor times gain^2."""
    power = jnp.maximum(jnp.exp(log_mel) - _FLOOR, 0)
    return jnp.log(jnp.square(gain)[:, None, None] * power + _FLOOR)


def _crop(log_mel: jax.Array, box: jax.Array, canvas: tuple[float, float]) -> jax.Array:
    """Cuts `box` [B, 4] out of a zero canvas around [B, mels, columns] and resizes it back.

    As torch's bicubic interpolation with aligned corners and without antialiasing.
    """
    top, left, height, width = jnp.moveaxis(box, -1, 0)
    rows = _crop_weights(top, height, log_mel.shape[1], canvas[0])
    columns = _crop_weights(left, width, log_mel.shape[2], canvas[1])
    return jnp.einsum(
        "bim,bmn,bjn->bij", rows, log_mel, columns, precision=jax.lax.Precision.HIGHEST
    )


def _crop_weights(start: jax.Array, extent: jax.Array, size: int, canvas: float) -> jax.Array:
    """Weights [B, size, size] that read a spectrogram's axis through a box on the canvas."""
    margin = (int(size * canvas) - size) // 2
    last = extent[:, None] - 1
    position = np.arange(size, dtype=np.float32) * last / max(size - 1, 1)
    whole = jnp.floor(position)
    weights = jnp.zeros((len(start), size, size), jnp.float32)
    for tap in (-1, 0, 1, 2):
        weight = _cubic(jnp.abs(position - whole - tap))
        source = start[:, None] - margin + jnp.clip(whole.astype(jnp.int32) + tap, 0, last)
        # Nothing is read where the canvas is zero: no column of the spectrogram matches.
        weights += jnp.where(source[..., None] == np.arange(size), weight[..., None], 0)
    return weights


def _cubic(distance: jax.Array) -> jax.Array:
    """Keys' kernel with a = -0.75 at distances in 0..2."""
    a, d = _CUBIC, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return jnp.where(d <= 1, near, far)
