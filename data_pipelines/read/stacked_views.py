"""One view, and several of them along a leading axis."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.read.frame_cuts import Cuts

View = dict[str, Any]
# Python's generators take a fifth of the time of NumPy's for single numbers.
RngOf = Callable[[str], random.Random]


def stack(views: list[View]) -> View:
    """Returns views of the same keys as one, with a leading axis; cuts of frames are `Cuts`."""
    return {
        key: Cuts(tuple(view[key] for view in views))
        if key == "frames"
        else np.array([view[key] for view in views])
        for key in views[0]
    }
