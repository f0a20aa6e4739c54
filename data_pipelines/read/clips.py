"""A clip: a few seconds of a record, with only its own frames decoded.

Positions are counted in frames at the config's rate, for sound too, so that picture and sound of
a clip are cut at one time; of a record without frames, in columns of its spectrogram.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import simplejpeg

from data_pipelines.errors import UserError
from data_pipelines.format import record_schema
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import views

_SILENCE = int(record_schema.encode_log_mel(np.array(record_schema.LOG_MEL_FLOOR)))


def last_start(record: Record, config: LoaderConfig) -> int:
    """Returns the last position at which a whole clip fits; 0 for a shorter record."""
    if record.frames:
        return max(0, len(record.frames) - config.video.frames)
    return max(0, record.log_mel.shape[1] - config.audio.columns)


def spread_starts(record: Record, config: LoaderConfig, clips: int) -> np.ndarray:
    """Returns the positions [clips] of clips spread evenly over a record; one is centered."""
    last = last_start(record, config)
    if clips == 1:
        return np.array([last // 2])
    return np.rint(np.linspace(0, last, clips)).astype(int)


class ClipFrames:
    """The frames of a clip, decoded one by one as they are cut into their places.

    Frames that are larger or smaller than the short side (of shards made elsewhere) are scaled. A
    short record's are repeated in a cycle.
    """

    def __init__(
        self,
        record: Record,
        start: int,
        count: int,
        short_side: int,
        where: str,
        stored_short_side: int = 0,
    ):
        """Reads the first frame's size; nothing is decoded.

        Args:
          record: the record.
          start: position of the clip's first frame.
          count: frames in the clip.
          short_side: of the frames, in pixels.
          where: names the record in an error.
          stored_short_side: that the data set states of its frames; 0: it states none.

        Raises:
          UserError: the record has no frames, or the first is no JPEG image or of an absurd size.
        """
        self._where = where
        self._count = count
        self._jpegs = record.frames[start : start + count]
        if not self._jpegs:
            raise UserError(f"{where} has no video: leave video out, or build with video.")
        try:
            self._stored = simplejpeg.decode_jpeg_header(self._jpegs[0])[:2]
        except ValueError as error:
            raise self._damaged(error) from None
        if fault := record_schema.frame_fault(self._stored[0], self._stored[1], stored_short_side):
            raise self._damaged(fault)
        # One frame's memory serves all of them, and stays in the processor's cache.
        self._frame = np.empty((*self._stored, 3), np.uint8)
        scale = short_side / min(self._stored)
        self.size = (round(self._stored[0] * scale), round(self._stored[1] * scale))

    def write(self, pending: Sequence[tuple[views.Cut | views.Cuts, np.ndarray]]) -> None:
        """Cuts the clip's frames into the arrays of what is waiting for them.

        Raises:
          UserError: a frame is no JPEG image, or their sizes differ.
        """
        frames = map(self._decode, self._jpegs)
        views.cut_frames(frames, len(self._jpegs), self._count, pending)

    def _decode(self, jpeg: bytes | memoryview) -> np.ndarray:
        if fault := record_schema.scans_fault(jpeg):
            raise self._damaged(fault)
        try:  # an image of more pixels than the buffer has is refused before it is decoded
            frame = simplejpeg.decode_jpeg(jpeg, buffer=self._frame)
        except ValueError as error:
            raise self._damaged(error) from None
        if frame.shape[:2] != self._stored:
            raise self._damaged("the sizes of the record's frames differ")
        if self._stored == self.size:
            return frame
        how = cv2.INTER_AREA if self.size < self._stored else cv2.INTER_LINEAR
        return cv2.resize(frame, self.size[::-1], interpolation=how)

    def _damaged(self, error: ValueError | str) -> UserError:
        return UserError(
            f"{self._where} has a frame that can't be decoded ({error}): build the shard again."
        )


def cut_log_mel(record: Record, start: int, config: LoaderConfig, where: str) -> np.ndarray:
    """Returns uint16 [mels, audio.columns] from the position `start` on, silence after the end.

    Raises:
      UserError: the record has no sound.
    """
    held = record.log_mel.shape[1]
    if not held:
        raise UserError(f"{where} has no audio: leave audio out, or build with audio.")
    columns_a_frame = config.audio.sample_rate / config.audio.hop / config.video.frame_rate
    first = round(start * columns_a_frame) if record.frames else start
    found = record.log_mel[:, first : first + config.audio.columns]
    if found.shape[1] == config.audio.columns:
        return found
    clip = np.full((record.log_mel.shape[0], config.audio.columns), _SILENCE, np.uint16)
    clip[:, : found.shape[1]] = found
    return clip
