"""Audio views: volume, normalization, and the random resized crop of the spectrogram."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loader_config import AudioAugment, AudioConfig
from xkd_jax.augment.cubic import cubic_taps

# log_mel = code / 2048 - 16 with a floor of 2^-23 under the power (`format.record_schema`).
_STEP, _OFFSET = 2.0**-11, 16.0
_FLOOR = 2.0**-23


def augment_audio(
    audio: AudioConfig, augment: AudioAugment, view: dict[str, jax.Array]
) -> jax.Array:
    """Returns float32 [B, mels, columns], normalized by `audio.mean` and `audio.std`.

    Args:
      audio: kind of the spectrogram, its mean and deviation.
      augment: size of the canvas.
      view: spectrogram and random numbers of `data_pipelines.read.audio_views`, with a leading axis
        of samples.
    """
    log_mel, fixed_point = view["log_mel"], audio.spectrogram == "log_mel"
    if fixed_point:
        log_mel = log_mel.astype(jnp.float32) * _STEP - _OFFSET
    if "gain" in view:
        amplify = _amplify if fixed_point else _amplify_filter_bank
        log_mel = amplify(log_mel, view["gain"])
    log_mel = (log_mel - audio.mean) / audio.std
    if "box" in view:
        log_mel = crop(log_mel, view["box"], augment.canvas)
    return log_mel


def _amplify(log_mel: jax.Array, gain: jax.Array) -> jax.Array:
    """Log-mel spectrogram of `gain` [B] * waveform: the power above the floor times gain^2."""
    power = jnp.maximum(jnp.exp(log_mel) - _FLOOR, 0)
    return jnp.log(jnp.square(gain)[:, None, None] * power + _FLOOR)


def _amplify_filter_bank(bank: jax.Array, gain: jax.Array) -> jax.Array:
    """The filter bank of `gain` [B] * waveform; columns of zeros, after the end, don't change."""
    louder = jnp.maximum(bank + 2 * jnp.log(gain)[:, None, None], np.log(_FLOOR))
    return jnp.where((bank == 0).all(1, keepdims=True), bank, louder)


def crop(log_mel: jax.Array, box: jax.Array, canvas: tuple[float, float]) -> jax.Array:
    """Cuts a box out of a zero canvas around a spectrogram and resizes it to the original shape.

    The resize equals torch's bicubic interpolation with aligned corners and without antialiasing.

    Args:
      log_mel: normalized, float32 [B, mels, columns].
      box: int32 [B, 4]: top, left, height, width on the canvas.
      canvas: height and width of the canvas / those of the spectrogram, which is in its center.

    Returns:
      float32 [B, mels, columns].
    """
    top, left, height, width = jnp.moveaxis(box, -1, 0)
    rows = _crop_weights(top, height, log_mel.shape[1], canvas[0])
    columns = _crop_weights(left, width, log_mel.shape[2], canvas[1])
    return jnp.einsum(
        "bim,bmn,bjn->bij", rows, log_mel, columns, precision=jax.lax.Precision.HIGHEST
    )


def _crop_weights(start: jax.Array, extent: jax.Array, size: int, canvas: float) -> jax.Array:
    """Weights [B, size, size] that resample one axis of a spectrogram to a box on the canvas."""
    whole = int(size * canvas)
    margin, last = (whole - size) // 2, extent[:, None] - 1
    # Quotients from a table: compiled code multiplies by the divisor's rounded inverse, which moves
    # positions by more than torch's rounding.
    step = np.arange(whole, dtype=np.float32) / np.float32(max(size - 1, 1))
    position = jnp.arange(size, dtype=jnp.float32)[None] * jnp.asarray(step)[last]
    weights = jnp.zeros((len(start), size, size), jnp.float32)
    for place, weight in cubic_taps(position, start[:, None] - margin, last):
        # Places outside of the spectrogram match no column: the canvas is zero there.
        weights += jnp.where(place[..., None] == np.arange(size)[None, None], weight[..., None], 0)
    return weights
