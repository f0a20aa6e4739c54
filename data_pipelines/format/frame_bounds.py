"""Bounds of the JPEG images of a record, checked before they are decoded.

A few bytes can state a large image, or have many scans, which would cost gigabytes or minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_ASPECT = 16  # longer side / shorter side
MAX_PIXELS = 2**23  # in data sets without a short side; more than 3840 x 2160
# Scans of a progressive JPEG: each may have few bytes, and costs a pass over all pixels. Usual
# files have 10.
MAX_SCANS = 32
_SCAN = 0xDAFF  # the bytes 255 and 218


def frame_fault(height: int, width: int, short_side: int) -> str:
    """Returns what is wrong with the stated size of a JPEG image before decoding, or "".

    Args:
      height: in pixels.
      width: in pixels.
      short_side: of the data set's frames (`Metadata.short_side`); 0: frames of any size.
    """
    max_pixels = MAX_ASPECT * short_side**2 if short_side else MAX_PIXELS
    short, long = sorted((height, width))
    if short > 0 and long <= MAX_ASPECT * short and height * width <= max_pixels:
        return ""
    bound = f"short side {short_side}" if short_side else f"{MAX_PIXELS:,} pixels"
    return f"it states {width} x {height} pixels, beyond {bound} and sides of {MAX_ASPECT} to 1"


def scans_fault(jpegs: Sequence[bytes | memoryview]) -> str:
    """Returns a description of too many scans in one of the JPEG images, or "".

    Images are counted together, as most have one scan, and a NumPy call takes a microsecond.
    """
    groups = [jpegs[i : i + MAX_SCANS] for i in range(0, len(jpegs), MAX_SCANS)]
    large = (group for group in groups if _scans(b"".join(group)) > MAX_SCANS)
    scans = max((_scans(jpeg) for group in large for jpeg in group), default=0)
    return f"it has {scans} scans, more than {MAX_SCANS}" if scans > MAX_SCANS else ""


def _scans(data: bytes | memoryview) -> int:
    """Returns the number of scans of JPEG images: of their markers at even and odd positions.

    In the data of a scan, the byte 255 is followed by 0 or by 208 to 215.
    """
    pairs = (np.frombuffer(data, "<u2", (len(data) - odd) // 2, odd) for odd in (0, 1) if data)
    return sum(int(np.count_nonzero(pair == _SCAN)) for pair in pairs)
