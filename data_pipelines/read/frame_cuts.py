"""Boxes of a clip's frames, which are cut into the batch while the frames are decoded.

Boxes are drawn before the frames are decoded. A few decoded frames at a time are copied into the
batch, while they are in the processor's cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cut:
    """The pending frames of a view: a box of consecutive frames of a clip.

    Attributes:
      start: index of the first frame in the clip.
      frames: number of frames.
      box: top, left, height and width, in pixels.
      canvas: height and width of the array that the box is copied to, at its origin.
      transposed: whether rows of the box become columns of the canvas.
    """

    start: int
    frames: int
    box: tuple[int, int, int, int]
    canvas: tuple[int, int]
    transposed: bool = False
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view's array, uint8."""
        return (self.frames, *self.canvas, 3)

    @property
    def size_on_canvas(self) -> tuple[int, int]:
        """Height and width of the box on the canvas."""
        height, width = self.box[2:]
        return (width, height) if self.transposed else (height, width)

    def places(self, out: np.ndarray) -> Iterator[tuple[Cut, np.ndarray]]:
        """Yields (cut, its part of `out`); `out` is uint8 of `shape`."""
        yield self, out

    def write(self, frames: np.ndarray, out: np.ndarray) -> None:
        """Copies the box of frames to their canvases.

        Args:
          frames: uint8 [n, height, width, 3].
          out: the canvases, uint8 [n, H, W, 3]; pixels outside the box are not written.
        """
        top, left, height, width = self.box
        boxes = frames[:, top : top + height, left : left + width]
        if self.transposed:
            for box, canvas in zip(boxes, out, strict=True):
                canvas[:width, :height] = cv2.transpose(box)
        else:
            out[:, :height, :width] = boxes


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The pending frames of several views, stacked along a leading axis."""

    cuts: tuple[Cut, ...]
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view's array, uint8."""
        return (len(self.cuts), *self.cuts[0].shape)

    def places(self, out: np.ndarray) -> Iterator[tuple[Cut, np.ndarray]]:
        """Yields (cut, its part of `out`); `out` is uint8 of `shape`."""
        yield from zip(self.cuts, out, strict=True)


def cut_frames(
    groups: Iterable[np.ndarray],
    held: int,
    count: int,
    pending: Sequence[tuple[Cut | Cuts, np.ndarray]],
) -> None:
    """Copies the boxes of a clip's frames, a group at a time, into the arrays of all views.

    Args:
      groups: the frames in order, uint8 [n, height, width, 3] for n of them at a time.
      held: number of frames in all groups.
      count: number of frames in the clip; if it is larger, frames are repeated in a cycle.
      pending: (cut, uint8 array of the cut's shape) each.
    """
    placed = [
        (cut, cut.start, cut.start + cut.frames, place)
        for cuts, out in pending
        for cut, place in cuts.places(out)
    ]
    first = 0
    for frames in groups:
        for number in range(first, count, held):
            last = min(number + len(frames), count)
            for cut, start, end, place in placed:
                low, high = max(number, start), min(last, end)
                if low < high:
                    chosen = frames[low - number : high - number]
                    cut.write(chosen, place[low - start : high - start])
        first += len(frames)


def make_cut(
    size: tuple[int, int],
    span: tuple[int, int],
    box: tuple[int, int, int, int],
    canvas: tuple[int, int],
) -> Cut:
    """Returns the cut of a box, transposed if it is higher than the canvas.

    Args:
      size: height and width of the frames, in pixels.
      span: first frame and number of frames.
      box: top, left, height and width, in pixels.
      canvas: height and width of the canvas, in pixels.

    Raises:
      UserError: the box does not fit on the canvas, as the frames are too large.
    """
    height, width = box[2:]
    if min(height, width) > canvas[0] or max(height, width) > canvas[1]:
        raise UserError(
            f"A box of {height}x{width} pixels in frames of {size[0]}x{size[1]} is too large for"
            " data.short_side: set it to the data set's short side."
        )
    return Cut(*span, box, canvas, transposed=height > canvas[0])
