"""Samples the decoded frames of a video at a fixed rate, and compresses them."""

from __future__ import annotations

import math

import av
import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from data_pipelines.build import orientation
from data_pipelines.build.damage import LONGEST_STEP_BACK, DamageError, UnfitError
from data_pipelines.format import frame_bounds

# Time stamps are rounded (to 1 ms in Matroska): a frame may be late by this much.
_EARLY = 0.001
_LONGEST_FRAME = 600.0
# A decoder holds a dozen frames; with 8192 x 8192 pixels they take 1.2 GB.
MOST_PIXELS = 1 << 26
# Bytes of the frames of one record, which is read as a whole.
MAX_BYTES = 1 << 29
# Color matrices of ITU-T H.273 that libswscale lacks; YCgCo is linear and converted here.
_YCGCO = 8
_MATRICES = {
    10: "BT.2020 with constant luminance", 11: "SMPTE ST 2085", 12: "chroma-derived",
    13: "chroma-derived with constant luminance", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re",
    17: "YCgCo-Ro",
}  # fmt: skip
_RESERVED, _UNSPECIFIED, _ITU601 = 3, 2, 6


class FrameTrack:
    """JPEG frames at `rate` per second between two times: the frame that is visible at each time.

    A frame is scaled to the short side by libswscale's bilinear filter, which does not alias, and
    then rotated and mirrored by its display matrix. It stays in YCbCr with subsampled color, as in
    the video and in JPEG: conversion to RGB would take twice the time and lose precision. All
    frames have the size of the first. Times are in seconds.

    Attributes:
      frames: JPEG bytes of the frames so far.
      began: time of the first decoded frame; infinity before it.
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
        self._bytes = 0
        self._time = self._held_until = self._repeated_until = -math.inf
        self.began = math.inf

    @property
    def empty(self) -> bool:
        """Whether no frame was added yet."""
        return self.began == math.inf

    @property
    def until(self) -> float:
        """End of the last frame so far; minus infinity before the first."""
        return self._held_until

    @property
    def full(self) -> bool:
        """Whether all frames up to the end were added."""
        return self._time >= self._end

    def add(self, frame: av.VideoFrame, time: float | None, seconds: float) -> None:
        """Adds the next decoded frame.

        Args:
          frame: the frame.
          time: of its start, in seconds; None: at the end of the last frame.
          seconds: its duration.

        Raises:
          DamageError: its time or shape is implausible.
          UnfitError: it is too large, or its colors can't be converted.
        """
        check_size(frame.width, frame.height)
        time = max(self._held_until, 0.0) if time is None else time
        if self._held is not None:
            if time < self._time - LONGEST_STEP_BACK:
                raise DamageError(f"its time stamps go back from {self._time:.1f} to {time:.1f} s")
            if time <= self._time:
                return  # a small step back: these times have frames already
            if time > self._held_until + _LONGEST_FRAME:
                raise DamageError(f"its time stamps jump from {self._time:.1f} to {time:.1f} s")
            self._fill(time)
        if self.empty:
            self._size = _shown_size(frame, self._short_side)
            self.began = time
        self._held, self._jpeg = frame, b""
        self._time, self._held_until = time, time + seconds

    def repeat(self, time: float, seconds: float) -> None:
        """Adds an empty packet, which repeats the frame before it; times are in seconds."""
        self._repeated_until = max(self._repeated_until, time + seconds)

    def finish(self) -> None:
        """Adds the last frame for its whole duration.

        Raises:
          UnfitError: as `add`.
        """
        if self._held is not None:
            self._held_until = max(self._held_until, self._repeated_until)
            self._fill(self._held_until)
        self._held = None

    def _fill(self, time: float) -> None:
        wanted = math.ceil((min(time, self._end) - self._start - _EARLY) * self._rate)
        while len(self.frames) < wanted:
            if not self._jpeg and self._held is not None:
                self._jpeg = self._compress(self._held)
            self.frames.append(self._jpeg)
            self._bytes += len(self._jpeg)
            if self._bytes > MAX_BYTES:
                raise UnfitError(
                    "too large",
                    f"its frames up to {time:.0f} s take more than {MAX_BYTES >> 20} MiB, the"
                    " limit of a record (--max_seconds cuts it into several)",
                )

    def _compress(self, frame: av.VideoFrame) -> bytes:
        shown = orientation.of_frame(frame)
        width, height = self._size[::-1] if shown.transposed else self._size
        ycgco = frame.colorspace == _YCGCO
        if ycgco:
            frame.colorspace = _ITU601  # the result's color space, so that libswscale only scales
        elif frame.colorspace == _RESERVED:
            frame.colorspace = _UNSPECIFIED
        try:
            small = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="yuvj420p",
                interpolation="BILINEAR",
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.JPEG,
            )
        except av.error.FFmpegError as error:
            raise _inconvertible(frame, error) from None
        stored = [_plane(plane) for plane in small.planes]
        if ycgco:
            frame.colorspace = _YCGCO
            stored = _from_ycgco(*stored)
        planes = [shown.apply(plane) for plane in stored]
        return simplejpeg.encode_jpeg_yuv_planes(
            *map(np.ascontiguousarray, planes), quality=self._quality
        )


def check_size(width: int, height: int) -> None:
    """Checks that frames of `width` x `height` pixels are small enough to decode.

    Raises:
      UnfitError: the frames are too large.
    """
    if width * height > MOST_PIXELS:
        raise UnfitError(
            "too large", f"its frames have {width} x {height} pixels, more than {MOST_PIXELS:,}"
        )


def _inconvertible(frame: av.VideoFrame, error: av.error.FFmpegError) -> UnfitError:
    matrix = _MATRICES.get(frame.colorspace)
    if matrix:
        return UnfitError("unsupported", f"its color matrix, {matrix}, can't be converted")
    return UnfitError(
        "unsupported", f"its pixels ({frame.format.name}) can't be converted ({error.strerror})"
    )


def _from_ycgco(y: np.ndarray, cg: np.ndarray, co: np.ndarray) -> list[np.ndarray]:
    """Converts Y, Cg, Co to Y, Cb, Cr: uint8, full range, colors at half the resolution.

    R, G, B = Y - Cg + Co, Y + Cg, Y - Cg - Co (H.273, equations 50 to 53).
    """
    cg, co = cg.astype(np.float32) - 128, co.astype(np.float32) - 128
    more = np.repeat(np.repeat(0.174 * cg + 0.185 * co, 2, axis=0), 2, axis=1)
    planes = (
        y + more[: y.shape[0], : y.shape[1]],
        128 - (1.174 * cg + 1.185 * co) / 1.772,
        128 - (1.174 * cg - 0.815 * co) / 1.402,
    )
    return [np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes]


def _plane(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """Returns a plane as uint8 [height, width], without the padding of its lines."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]


def _shown_size(frame: av.VideoFrame, short_side: int) -> tuple[int, int]:
    """Returns width and height of a frame after scaling and rotation, as even numbers.

    With odd numbers libjpeg reads past the end of a color plane.
    """
    sides = (frame.width, frame.height)
    short, long = sorted(sides)
    if long > frame_bounds.MAX_ASPECT * short:
        raise DamageError(
            f"frames of {frame.width} x {frame.height} pixels exceed an aspect ratio of"
            f" {frame_bounds.MAX_ASPECT}"
        )
    width, height = (2 * round(side * short_side / short / 2) for side in sides)
    if orientation.of_frame(frame).transposed:
        return height, width
    return width, height
