"""A clip: a few seconds of a record, with only its own frames decoded.

Positions are counted in frames at the config's rate, for sound too, so that picture and sound of
a clip are cut at one time.
"""

from __future__ import annotations

import numpy as np
import simplejpeg

from data_pipelines import schema
from data_pipelines.schema import Record
from xkd_jax.config import Config
from xkd_jax.errors import UserError

_SILENCE = int(schema.encode_log_mel(np.array(schema.LOG_MEL_FLOOR)))


def last_start(record: Record, config: Config) -> int:
    """Returns the last position at which a whole clip fits; 0 for a shorter record."""
    frames = len(record.frames)
    if not frames:
        seconds = record.log_mel.shape[1] * config.audio.hop / config.audio.sample_rate
        frames = int(seconds * config.video.frame_rate)
    return max(0, frames - config.video.frames)


def spread_starts(record: Record, config: Config, clips: int) -> np.ndarray:
    """Returns the positions [clips] of clips spread evenly over a record; one is centred."""
    last = last_start(record, config)
    if clips == 1:
        return np.array([last // 2])
    return np.rint(np.linspace(0, last, clips)).astype(int)


def decode_frames(record: Record, start: int, count: int, where: str) -> np.ndarray:
    """Returns uint8 [count, height, width, 3] frames from `start` on, repeated in a cycle.

    Raises:
      UserError: the record has no frames, one is no JPEG image, or their sizes differ.
    """
    held = len(record.frames)
    if not held:
        raise UserError(f"{where} has no video: leave video out, or build with video.")
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(record.frames[start])
        frames = np.empty((count, height, width, 3), np.uint8)
        for i in range(count):
            if i < held:
                jpeg = record.frames[(start + i) % held]
                if simplejpeg.decode_jpeg(jpeg, buffer=frames[i]).shape != frames[i].shape:
                    raise ValueError("the sizes of the record's frames differ")
            else:
                frames[i] = frames[i - held]
    except ValueError as error:
        raise UserError(
            f"{where} has a frame that can't be decoded ({error}): build the shard again."
        ) from None
    return frames


def cut_log_mel(record: Record, start: int, config: Config, where: str) -> np.ndarray:
    """Returns uint16 [mels, audio.columns] from the position `start` on, silence after the end.

    Raises:
      UserError: the record has no sound.
    """
    held = record.log_mel.shape[1]
    if not held:
        raise UserError(f"{where} has no audio: leave audio out, or build with audio.")
    seconds = start / config.video.frame_rate
    first = round(seconds * config.audio.sample_rate / config.audio.hop)
    clip = np.full((record.log_mel.shape[0], config.audio.columns), _SILENCE, np.uint16)
    found = record.log_mel[:, first : first + config.audio.columns]
    clip[:, : found.shape[1]] = found
    return clip
