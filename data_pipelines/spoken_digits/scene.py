"""Draws a handwritten digit that bounces among moving pieces of other digits.

Low-level statistics do not reveal the digit: all colors are random, the pieces are parts of other
digits, and everything moves and is noisy. The digit is recognizable because it is complete, on top,
near the center, and brighter than the pieces.
"""

from __future__ import annotations

import cv2
import numpy as np

from data_pipelines.spoken_digits.handwriting import Handwriting

PIECES = (5, 6)  # range of the number of pieces of other digits
PIECE_SIZE = (3, 4)  # range of height and width of a piece, of 8
SCALE = (0.6, 0.7)  # side of the digit's image / side of the frame
PIECE_SCALE = (0.45, 0.6)  # the same for the images of the pieces
ROAM = 0.4  # fraction of the free space in which the digit moves, around the center
TURN = 8.0  # largest rotation in either direction, in degrees
SPEED = (0.1, 0.5)  # in sides of the frame per second
BACKGROUND = np.float32(0.05)  # largest value of the background, in 0..1
BRIGHTNESS = (0.8, 1.0)  # of the digit's strongest color
PIECE_BRIGHTNESS = (0.3, 0.6)  # of a piece's strongest color
NOISE = (0.01, 0.05)  # standard deviation, in 0..1
_REACH = 1.3  # side of the square around a rotated image / side of the image


def draw(
    handwriting: Handwriting,
    label: int,
    frames: int,
    size: int,
    frame_rate: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the frames of a clip with one image of `label`, uint8 [frames, size, size, 3].

    Args:
      handwriting: images of digits.
      label: the digit, 0 to 9.
      frames: number of frames.
      size: side of a frame, in pixels.
      frame_rate: frames per second.
      rng: random generator.
    """
    pieces = rng.integers(PIECES[0], PIECES[1] + 1)
    others = (label + rng.integers(1, 10, pieces)) % 10
    inks = [_piece(_image(handwriting, other, rng), rng) for other in others]
    inks.append(_image(handwriting, label, rng))
    sides = rng.uniform(*PIECE_SCALE, len(inks)) * size
    sides[-1] = rng.uniform(*SCALE) * size
    angles = rng.uniform(-TURN, TURN, len(inks))
    centers = _paths(sides, size, np.arange(frames) / frame_rate, rng)
    colors = _colors(len(inks), rng)
    canvas = np.empty((frames, 3, size, size), np.float32)
    canvas[:] = colors[0]
    for i, ink in enumerate(inks):
        opacity = _opacity(_sprite(ink, sides[i], angles[i]), centers[:, i], size)
        over = colors[i + 1] - canvas
        over *= opacity[:, None]
        canvas += over
    return _develop(canvas, rng)


def _image(handwriting: Handwriting, label: int, rng: np.random.Generator) -> np.ndarray:
    images = handwriting.by_label[label]
    return handwriting.ink[images[rng.integers(len(images))]]


def _piece(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random window of the image, moved to the center of a blank image."""
    height, width = rng.integers(PIECE_SIZE[0], PIECE_SIZE[1] + 1, 2)
    top, left = rng.integers(0, (9 - height, 9 - width))
    piece = np.zeros_like(ink)
    at_top, at_left = (8 - height) // 2, (8 - width) // 2
    window = ink[top : top + height, left : left + width]
    piece[at_top : at_top + height, at_left : at_left + width] = window
    return piece


def _paths(sides: np.ndarray, size: int, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns centers [frames, n, 2] of images that bounce off the edges of the frame."""
    n = len(sides)
    room = (size - sides)[:, None]
    room[-1] *= ROAM
    direction, speed = rng.uniform(0, 2 * np.pi, n), rng.uniform(*SPEED, n) * size
    velocity = speed[:, None] * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
    position = rng.random((n, 2)) * room + velocity * times[:, None, None]
    margin = (size - room) / 2
    return margin + bounce(position, room)


def bounce(position: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Folds positions on a line into 0..length, as for a ball between two walls.

    Both are float64 arrays whose shapes broadcast; so is the result.
    """
    return length - np.abs(np.mod(position, 2 * length) - length)


def _colors(inks: int, rng: np.random.Generator) -> np.ndarray:
    """Returns colors, float32 [1 + inks, 3, 1, 1] in 0..1: of the background, then of the inks."""
    background = BACKGROUND * rng.random((1, 3), dtype=np.float32)
    ink = rng.random((inks, 3), dtype=np.float32)
    # The strongest of the three colors of an ink is never dark.
    brightness = rng.uniform(*PIECE_BRIGHTNESS, (inks, 1))
    brightness[-1] = rng.uniform(*BRIGHTNESS)
    ink *= brightness / ink.max(axis=1, keepdims=True)
    return np.concatenate([background, ink])[..., None, None].astype(np.float32)


def _sprite(ink: np.ndarray, side: float, angle: float) -> np.ndarray:
    """Returns the image rotated by `angle` degrees, `side` pixels wide, as opacity [n, n]."""
    extent = int(np.ceil(side * _REACH))
    matrix = np.array(cv2.getRotationMatrix2D((3.5, 3.5), angle, side / 8), np.float64)
    matrix[:, 2] += (extent - 1) / 2 - 3.5
    return cv2.warpAffine(ink, matrix, (extent, extent), flags=cv2.INTER_CUBIC)


def _opacity(sprite: np.ndarray, centers: np.ndarray, size: int) -> np.ndarray:
    """Returns opacity [frames, size, size]: the sprite at each frame's center, in whole pixels."""
    extent = len(sprite)
    margin = size // 4  # sprites may extend beyond the frame
    opacity = np.zeros((len(centers), size + 2 * margin, size + 2 * margin), np.float32)
    corners = np.rint(centers + margin - extent / 2).astype(int)
    sprite = np.clip(sprite, 0, 1)  # the cubic interpolation overshoots
    for layer, (top, left) in zip(opacity, corners.tolist(), strict=True):
        layer[top : top + extent, left : left + extent] = sprite
    return opacity[:, margin:-margin, margin:-margin]


def _develop(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds noise to [frames, 3, size, size] in 0..1; returns uint8 [frames, size, size, 3]."""
    pixels = rng.random(
        canvas.shape, dtype=np.float32
    )  # uniform noise takes a quarter of the time of normal noise
    pixels -= 0.5
    pixels *= np.float32(np.sqrt(12) * rng.uniform(*NOISE))
    pixels += canvas
    pixels *= 255
    pixels = np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels)
    return np.ascontiguousarray(pixels.astype(np.uint8).transpose(0, 2, 3, 1))
