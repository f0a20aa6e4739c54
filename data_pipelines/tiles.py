"""RGB images of views, for people."""

from __future__ import annotations

import cv2
import numpy as np

TILE = 112  # height of every tile, pixels


def tile(image: np.ndarray) -> np.ndarray:
    """Resizes an image to the height of a tile; enlarged pixels keep sharp edges.

    Args:
      image: uint8 [height, width, 3].

    Returns:
      uint8 [TILE, scaled width, 3].
    """
    width = max(1, round(image.shape[1] * TILE / image.shape[0]))
    mode = cv2.INTER_AREA if image.shape[0] > TILE else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(image), (width, TILE), interpolation=mode)


def false_colors(levels: np.ndarray) -> np.ndarray:
    """Colors levels from violet (0) to yellow (255): uint8 [height, width] to [..., 3]."""
    return cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
