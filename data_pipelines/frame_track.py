"""The frames of a video as they are decoded, sampled at a fixed rate and compressed."""

from __future__ import annotations

import math

import av
import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_pipelines.damage import LONGEST_STEP_BACK, DamageError

# Time stamps are rounded (to 1 ms in Matroska): a frame this late still counts as on time.
_EARLY = 0.001
_LONGEST_FRAME = 600.0
_LONGEST_SIDE = 16


class FrameTrack:
    """JPEG frames at `rate` a second between two times: what a screen would show then.

    A frame is scaled to the short side by libswscale's bilinear filter, which widens when it
    shrinks and so does not alias, then turned as its rotation says. It stays in the video's own
    terms, brightness and colour at half the resolution, which are JPEG's too: by way of RGB it
    would take twice the time and lose a little. All frames take the size of the first. Times are
    in seconds.

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
        self._reformatter = VideoReformatter()
        self._held: av.VideoFrame | None = None
        self._jpeg = b""
        self._time = self._held_until = -math.inf
        self.began = math.inf

    @property
    def empty(self) -> bool:
        """Whether no frame has come yet."""
        return self.began == math.inf

    @property
    def until(self) -> float:
        """When the frames so far end; minus infinity before the first."""
        return self._held_until

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
            if time < self._time - LONGEST_STEP_BACK:
                raise DamageError(f"its time stamps go back from {self._time:.1f} to {time:.1f} s")
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
        small = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuvj420p",
            interpolation="BILINEAR",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.JPEG,
        )
        planes = [_plane(plane) for plane in small.planes]
        if frame.rotation:
            planes = [np.rot90(plane, round(frame.rotation / 90)) for plane in planes]
        return simplejpeg.encode_jpeg_yuv_planes(
            *map(np.ascontiguousarray, planes), quality=self._quality
        )


def _plane(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """Returns uint8 [height, width] of a plane, whose lines may be longer."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]


def _small_size(frame: av.VideoFrame, short_side: int) -> tuple[int, int]:
    """Returns the width and height of a frame, before rotation, as it is stored: even numbers.

    With odd ones libjpeg reads past the end of a colour plane.
    """
    short, long = sorted((frame.width, frame.height))
    if long > _LONGEST_SIDE * short:
        raise DamageError(f"frames of {frame.width} x {frame.height} are too elongated")
    width, height = (
        2 * round(side * short_side / short / 2) for side in (frame.width, frame.height)
    )
    return width, height
