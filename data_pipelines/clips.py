"""A clip: a few seconds of a record, with only its own frames decoded.

Positions are counted in frames at the config's rate, for sound too, so that picture and sound of
a clip are cut at one time.
"""

from __future__ import annotations

import cv2
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


def decode_frames(
    record: Record, start: int, count: int, short_side: int, where: str
) -> np.ndarray:
    """Returns uint8 [count, height, width, 3] frames from `start` on, repeated in a cycle.

    Frames that are larger or smaller than the short side (of shards made elsewhere) are scaled.

    Raises:
      UserError: the record has no frames, one is no JPEG image, or their sizes differ.
    """
    held = len(record.frames)
    if not held:
        raise UserError(f"{where} has no video: leave video out, or build with video.")
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(record.frames[start])
        frames = np.empty((min(count, held), height, width, 3), np.uint8)
        for i, frame in enumerate(frames):
            jpeg = record.frames[(start + i) % held]
            if simplejpeg.decode_jpeg(jpeg, buffer=frame).shape != frame.shape:
                raise ValueError("the sizes of the record's frames differ")
    except ValueError as error:
        raise UserError(
            f"{where} has a frame that can't be decoded ({error}): build the shard again."
        ) from None
    if min(height, width) != short_side:
        frames = _scale(frames, short_side)
    return frames[np.arange(count) % held] if count > held else frames


def _scale(frames: np.ndarray, short_side: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = short_side / min(height, width)
    size = (round(width * scale), round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, size, interpolation=how) for frame in frames])


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
