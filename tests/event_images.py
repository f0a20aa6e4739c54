"""Images that a run wrote for TensorBoard."""

import collections
from pathlib import PurePath

import cv2
import numpy as np

from xkd_jax.training.logs import event_files


def images(workdir: PurePath) -> dict[int, dict[str, np.ndarray]]:
    """Returns {step: {name: uint8 [height, width, 3]}} of a workdir."""
    found: dict[int, dict[str, np.ndarray]] = collections.defaultdict(dict)
    for step, value in event_files.values(workdir):
        if value.HasField("image"):
            encoded = np.frombuffer(value.image.encoded_image_string, np.uint8)
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            assert decoded is not None
            found[step][value.tag] = decoded[..., ::-1]
    return found
