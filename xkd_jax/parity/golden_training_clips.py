"""Comparison of the augmentation of clips that train a classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from xkd_jax.augment import mixing, rand_augment, spec_augment
from xkd_jax.parity.comparison import Report, largest_error, mean_error, worst
from xkd_jax.parity.golden_file import Fields, GoldenFile

_MASKS = 1e-5  # rounding of the mean; the masked positions are equal
_WARP = 1e-4
_LEVELS = 0.7  # of 255, on average: Pillow truncates
_TARGETS = 1e-6
_SHARE = 1e-6
_MOST_PIXELS = 10_000_000  # of a frame
_MAGNITUDE = 0.7  # 7 of 10, in all files
_SIGNS = {"plus": 1.0, "minus": -1.0}
# {timm's name of an operation: our name}
_OPERATIONS = {
    "AutoContrast": "autocontrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


def spec_augments(file: GoldenFile) -> Report:
    """Compares time warping, and frequency masks followed by time masks.

    Raises:
      UserError: the file is damaged.
    """
    fields = Fields(file)
    spectrogram = fields.real("spectrogram", "mels", "columns").astype(np.float32)
    mels, columns = spectrogram.shape
    moves = fields.whole("warp_column_moved", "warps", 2, low=1, high=columns - 1)
    warped = fields.real("warped", "warps", "mels", "columns")
    masks = {
        1: _masks(fields, "mel_width_start", "mel masks", mels),
        2: _masks(fields, "time_width_start", "time masks", columns),
    }
    masked = fields.real("masked", "mels", "columns")
    fields.finish()

    repeated = jnp.repeat(spectrogram[None], len(moves), 0)
    column, moved = jnp.asarray(moves.T, jnp.int32)
    found = spec_augment.warp(repeated, column, moved)
    warps = {
        f"column {a} moved to {b}": largest_error(found[i], warped[i])
        for i, (a, b) in enumerate(moves.tolist())
    }
    shown = jnp.asarray(spectrogram[None])
    for axis, given in masks.items():
        width, start = jnp.asarray(given.T[:, None])
        shown = spec_augment.mask(shown, axis, width, start)
    return Report(
        f"SpecAugment of {mels} bands, {columns} columns",
        [
            worst("warped", _WARP, warps),
            worst("masked", _MASKS, {"masks": largest_error(shown[0], masked)}),
        ],
    )


def _masks(fields: Fields, name: str, count: str, size: int) -> np.ndarray:
    """Takes the width and first band or column of each mask, int64 [masks, 2]."""
    found = fields.whole(name, count, 2, low=0, high=size)
    if (found.sum(1) > size).any():
        fields.refuse(f"{name!r} has a mask that ends after the axis of {size}")
    return found


def rand_augments(file: GoldenFile) -> Report:
    """Compares operations of RandAugment, applied to each frame separately.

    Raises:
      UserError: the file is damaged, or has an operation that RandAugment lacks.
    """
    fields = Fields(file)
    frames = fields.levels("frames", "frames", "height", "width", 3)
    if min(frames.shape[1:3]) < 3:
        fields.refuse("its frames are smaller than the filter of Sharpness")
    errors: dict[str, dict[str, float]] = {}
    for name in fields.names():
        operation, _, sign = name.partition("/")
        if operation not in _OPERATIONS or sign not in _SIGNS:
            fields.refuse(f"{name!r} is not an operation of RandAugment with its direction")
        expected = fields.levels(name, "frames", "height", "width", 3)
        found = _applied(frames, _OPERATIONS[operation], _SIGNS[sign])
        errors.setdefault(operation, {})[sign] = mean_error(found, expected)
    fields.finish()
    if not errors:
        fields.refuse("it has no operation")
    return Report(
        f"RandAugment, {len(errors)} operations, in levels of 255 (mean)",
        [worst(operation, _LEVELS, found) for operation, found in errors.items()],
    )


@jax.jit
def _apply_to_each(
    frames: jax.Array, operation: jax.Array, level: jax.Array, sign: jax.Array
) -> jax.Array:
    return jax.lax.map(
        lambda frame: rand_augment.apply(frame[None], operation, level, sign)[0], frames
    )


def _applied(frames: np.ndarray, operation: str, sign: float) -> jax.Array:
    index = rand_augment.OPERATIONS.index(operation)
    level = jnp.float32(_MAGNITUDE)
    return _apply_to_each(jnp.asarray(frames, jnp.float32), jnp.int32(index), level, sign)


def mixup_targets(file: GoldenFile) -> Report:
    """Compares smoothed targets, mixed with those of the reversed batch.

    Raises:
      UserError: the file is damaged.
    """
    fields = Fields(file)
    classes = int(fields.whole("classes", low=1, high=100_000))
    smoothing = float(fields.real("smoothing", low=0, high=1))
    fraction = fields.real("share", "batches", low=0, high=1).astype(np.float32)
    labels = fields.whole("labels", "batches", "clips", low=0, high=classes - 1)
    expected = fields.real("targets", "batches", "clips", classes)
    fields.finish()
    errors = {}
    for i, row in enumerate(labels):
        targets = mixing.class_targets(jnp.asarray(row, jnp.int32), classes, smoothing)
        errors[f"batch {i}"] = largest_error(mixing.mix_targets(targets, fraction[i]), expected[i])
    return Report(
        f"mixed targets, {len(labels)} batches of {classes} classes",
        [worst("targets", _TARGETS, errors)],
    )


def cutmix_boxes(file: GoldenFile) -> Report:
    """Compares boxes of CutMix and the fractions of the frame outside them.

    The file has neither the frame's size nor the boxes' centers; both are computed from its rows.

    Raises:
      UserError: the file is damaged.
    """
    fields = Fields(file)
    rows = fields.real("rows", "boxes", 6, low=0).astype(np.float64)
    fields.finish()
    fraction, ends, left = rows[:, 0], rows[:, 1:5].reshape(-1, 2, 2), rows[:, 5]
    if (ends[..., 0] > ends[..., 1]).any() or (ends % 1 != 0).any() or (rows[:, ::5] > 1).any():
        fields.refuse("a row is not a fraction, four whole numbers and a fraction")
    sizes = _possible_sizes(ends, left)
    if not sizes:
        fields.refuse("its fractions fit no size of a frame")
    found = min((_boxes(fraction, ends, size) for size in sizes), key=lambda f: _wrong(f, ends))
    start, stop, ours, size = found
    boxes = {f"row {i}": largest_error((start[i], stop[i]), ends[i].T) for i in range(len(rows))}
    shares = {f"row {i}": abs(float(ours[i]) - left[i]) for i in range(len(rows))}
    return Report(
        f"CutMix, {len(rows)} boxes of {size[0]} x {size[1]} pixels",
        [worst("boxes", 0.0, boxes), worst("share", _SHARE, shares)],
    )


_Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]


def _wrong(found: _Boxes, ends: np.ndarray) -> tuple[int, int]:
    """Returns the number of boxes that differ, and |height - width| of the frame."""
    start, stop, _, size = found
    differ = (np.stack([start, stop], -1) != ends).any((1, 2))
    return int(differ.sum()), abs(size[0] - size[1])


def _possible_sizes(ends: np.ndarray, left: np.ndarray) -> list[tuple[int, int]]:
    """Returns the (height, width) that contain all boxes and have the most frequent area."""
    extent = ends[..., 1] - ends[..., 0]
    area = extent.prod(1)
    known = (area > 0) & (left < 1)
    if not known.any():
        return []
    values, counts = np.unique(np.rint(area[known] / (1 - left[known])), return_counts=True)
    if values[np.argmax(counts)] > _MOST_PIXELS:
        return []
    pixels = int(values[np.argmax(counts)])
    least = np.maximum(ends[..., 1].max(0), 1).astype(int)
    return [
        (height, pixels // height)
        for height in range(int(least[0]), pixels // int(least[1]) + 1)
        if pixels % height == 0
    ]


def _boxes(fraction: np.ndarray, ends: np.ndarray, size: tuple[int, int]) -> _Boxes:
    """Returns our boxes around the centers that the rows have in a frame of this size."""
    whole = np.array(size)
    half = np.floor(whole * np.sqrt(1 - fraction)[:, None]) // 2
    start, stop = ends[..., 0], ends[..., 1]
    # The center is half a box away from an edge inside the frame; without such an edge, any center
    # fits.
    center = np.where(start > 0, start + half, np.where(stop < whole, stop - half, whole // 2))
    cut = jax.vmap(lambda fraction, center: mixing.cut_box(fraction, center, size))
    with jax.enable_x64(True):  # as the file's: float32 may round differently
        start, stop, left = map(np.asarray, cut(jnp.asarray(fraction), jnp.asarray(center)))
    return start, stop, left, size
