"""torch's and OpenCV's bicubic interpolation from its definition, in float64."""

import numpy as np

_A = -0.75


def kernel(x: float) -> float:
    """The weight of a sample at a distance."""
    x = abs(x)
    if x <= 1:
        return (_A + 2) * x**3 - (_A + 3) * x**2 + 1
    return _A * x**3 - 5 * _A * x**2 + 8 * _A * x - 4 * _A if x < 2 else 0.0


def resize(array: np.ndarray, size: int, *, aligned: bool) -> np.ndarray:
    """Resizes the last axis, with or without aligned corners."""
    held = array.shape[-1]
    result = np.zeros((*array.shape[:-1], size))
    for i in range(size):
        at = i * (held - 1) / max(size - 1, 1) if aligned else (i + 0.5) * held / size - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            result[..., i] += kernel(at - tap) * array[..., min(max(tap, 0), held - 1)]
    return result


def resize_image(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resizes [height, width] with aligned corners."""
    rows = resize(image.T, shape[0], aligned=True).T
    return resize(rows, shape[1], aligned=True)


def warp(spectrogram: np.ndarray, column: int, moved: int) -> np.ndarray:
    """Resizes the columns before one, and from it on, so that it moves to another place."""
    sides = (spectrogram[:, :column], moved), (spectrogram[:, column:], -moved)
    width = spectrogram.shape[1]
    return np.concatenate([resize(s, n % width, aligned=False) for s, n in sides], axis=1)
