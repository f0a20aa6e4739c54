"""The frames of a video as they are decoded, sampled at a fixed rate and compressed."""

from __future__ import annotations

import math

import av
import numpy as np
import simplejpeg

from data_pipelines.damage import DamageError

# Time stamps are rounded (to 1 ms in Matroska): a frame this late still counts as on time.
_EARLY = 0.001
_LONGEST_FRAME = 600.0
_LONGEST_SIDE = 16


class FrameTrack:
    """JPEG frames at `rate` a second between two times: what a screen would show then.

    A frame is scaled to the short side by libswscale's bilinear filter, which widens when it
    shrinks and so does not alias, then turned as its rotation says. All frames take the size of
    the first. Times are in seconds.

    Attributes:
      frames: those so far.
      began: when the first frame that was decoded appears; infinity before.
    """

    def __init__(self, rate: float, short_side: int, quality: int, start: float, end: float):
        self.frames: list[bytes] = []
        self._rate, self._quality = rate, quality
        self._short_side = short_side
        self._start, self._end = start, end
        self._size = (0, 0)
        self._held: av.VideoFrame | None = None
        self._jpeg = b""
        self._time = self._held_until = -math.inf
        self.began = math.inf

    @property
    def empty(self) -> bool:
        """Whether no frame has come yet."""
        return self.began == math.inf

    @property
    def full(self) -> bool:
        """Whether frames up to the end are there."""
        return self._time >= self._end

    def add(self, frame: av.VideoFrame, time: float | None, seconds: float) -> None:
        """Takes the next frame: when it appears (None: when the last ends) and for how long.

        Raises:
          DamageError: its time or size is absurd.
        """
        time = max(self._held_until, 0.0) if time is None else time
        if self._held is not None:
            if time <= self._time:
                return  # a time stamp that goes back; the frames in between have been taken
            if time > self._held_until + _LONGEST_FRAME:
                raise DamageError(f"its time stamps jump from {self._time:.1f} to {time:.1f} s")
            self._fill(time)
        if self.empty:
            self._size = _small_size(frame, self._short_side)
            self.began = time
        self._held, self._jpeg = frame, b""
        self._time, self._held_until = time, time + seconds

    def finish(self) -> None:
        """Shows the last frame as long as it lasts."""
        if self._held is not None:
            self._fill(self._held_until)
        self._held = None

    def _fill(self, time: float) -> None:
        wanted = math.ceil((min(time, self._end) - self._start - _EARLY) * self._rate)
        while len(self.frames) < wanted:
            if not self._jpeg and self._held is not None:
                self._jpeg = self._compress(self._held)
            self.frames.append(self._jpeg)

    def _compress(self, frame: av.VideoFrame) -> bytes:
        width, height = self._size
        small = frame.reformat(
            width=width, height=height, format="rgb24", interpolation="BILINEAR"
        ).to_ndarray()
        if frame.rotation:
            small = np.ascontiguousarray(np.rot90(small, round(frame.rotation / 90)))
        return simplejpeg.encode_jpeg(small, quality=self._quality)


def _small_size(frame: av.VideoFrame, short_side: int) -> tuple[int, int]:
    """Returns the width and height of a frame, before rotation, as it is stored."""
    short, long = sorted((frame.width, frame.height))
    if long > _LONGEST_SIDE * short:
        raise DamageError(f"frames of {frame.width} x {frame.height} are too elongated")
    return round(frame.width * short_side / short), round(frame.height * short_side / short)
