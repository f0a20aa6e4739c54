"""Rotation and mirroring of frames for display."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type


@dataclasses.dataclass(frozen=True)
class Orientation:
    """One of the eight orientations of a picture: mirrored or not, then rotated.

    Attributes:
      mirrored: whether to swap left and right, before the rotation.
      quarters: quarter turns counterclockwise, 0 to 3.
    """

    mirrored: bool = False
    quarters: int = 0

    @property
    def transposed(self) -> bool:
        """Whether width and height are swapped."""
        return self.quarters % 2 == 1

    def apply(self, plane: np.ndarray) -> np.ndarray:
        """Returns a view of an array [height, width] in display orientation."""
        return np.rot90(plane[:, ::-1] if self.mirrored else plane, self.quarters)


_UPRIGHT = Orientation()


def of_frame(frame: av.VideoFrame) -> Orientation:
    """Returns the orientation by a frame's display matrix.

    The matrix comes from the container (MP4's track header, Matroska's projection) or from the
    codec (H.264's and HEVC's display orientation, EXIF). Angles are rounded to multiples of 90
    degrees.
    """
    side_data: Any = frame.side_data  # the types of its keys differ between PyAV 18 and 19
    try:
        data = side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV 18: other side data has an unknown type
        return Orientation(quarters=round(frame.rotation / 90) % 4)
    if data is None or data.buffer_size < 36:
        return _UPRIGHT
    return of_matrix(np.frombuffer(memoryview(data), np.int32, 9))


def of_matrix(matrix: np.ndarray) -> Orientation:
    """Returns the orientation by a display matrix; upright if it is singular.

    Args:
      matrix: int32 [9] (a, b, u, c, d, v, x, y, w): a point (p, q) of the picture, q downwards, is
        shown at (a p + c q, b p + d q).
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    determinant = a * d - b * c
    if not determinant:
        return _UPRIGHT
    mirrored = determinant < 0
    if mirrored:  # a swap of left and right, then a rotation
        a, b = -a, -b
    # The mean direction of both axes, which may not be perpendicular.
    x, y = math.hypot(a, b), math.hypot(c, d)
    angle = math.atan2(-(b / x - c / y), a / x + d / y)
    return Orientation(mirrored, round(angle / (math.pi / 2)) % 4)
