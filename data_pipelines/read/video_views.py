"""Views of a clip's frames: boxes of pixels, and random numbers for the device.

The host copies the box of each view, without resizing, to a canvas with the same size for all
clips. The height of the canvas is the short side of the frames, and its width is the length of the
longest box. A box that is higher than the canvas, in a tall frame, is copied transposed. Pixels
around the box are not initialized, as nothing reads them and filling them takes as long as the
copy.

A view of video has:

| key           | type                | what                                                       |
|---------------|---------------------|------------------------------------------------------------|
| `frames`      | uint8 [t, H, W, 3]  | canvas with the box at its origin                          |
| `box`         | float32 [2]         | height and width of the box on the canvas, in pixels       |
| `transposed`  | bool                | whether rows of the box are columns of the canvas          |
| `flip`        | bool                | whether to swap left and right                             |
| `brightness`  | float32             | factor; also `contrast` and `saturation`                   |
| `hue`         | float32             | turns of the color circle                                  |
| `order`       | int32 [4]           | the order of brightness 0, contrast 1, saturation 2, hue 3 |
| `grayscale`   | bool                | whether to convert to grayscale                            |
| `blur_sigma`  | float32 [2]         | along rows and columns, in pixels of the view; 0: none     |

An augmentation that is switched off has no key.
"""

from __future__ import annotations

import math
import random

import numpy as np

from data_pipelines.loader_config import VideoAugment, VideoConfig
from data_pipelines.read.frame_cuts import Cut, make_cut
from data_pipelines.read.stacked_views import RngOf, View, stack

_CROP_ATTEMPTS = 10  # that of torchvision's RandomResizedCrop


def train_views(
    video: VideoConfig, short_side: int, size: tuple[int, int], rng_of: RngOf
) -> dict[str, View]:
    """Draws global and local views of a clip for training; their frames are pending cuts.

    Args:
      video: sizes of the views, and ranges of their random numbers.
      short_side: height of the canvas, in pixels.
      size: height and width of the clip's `video.frames` frames in pixels.
      rng_of: returns the random generator of a view by name: `video/global`, `video/local/0`.

    Returns:
      {"global": view, "local": stacked views}; `frames` is a `Cut`, and `Cuts` for local views.

    Raises:
      UserError: the short side of the frames is larger than `short_side`.
    """
    canvas = canvas_size(short_side, video.global_augment)
    whole, rng = (0, video.frames), rng_of("video/global")
    views = {"global": _view(size, whole, video.global_augment, canvas, rng)}
    if video.local_views:
        canvas = canvas_size(short_side, video.local_augment)
        rngs = [rng_of(f"video/local/{i}") for i in range(video.local_views)]
        views["local"] = stack([_local_view(video, size, canvas, rng) for rng in rngs])
    return views


def central_view(frames: int, short_side: int, size: tuple[int, int], fraction: float) -> View:
    """Returns the view of the square in the middle of a clip, without augmentation.

    Args:
      frames: of the clip.
      short_side: height and width of the canvas, in pixels.
      size: height and width of the frames in pixels.
      fraction: side of the square / short side of the frames.

    Raises:
      UserError: the short side of the frames is larger than `short_side`.
    """
    height, width = size
    side = max(1, round(fraction * min(size)))
    box = ((height - side) // 2, (width - side) // 2, side, side)
    return _plain_view(make_cut(size, (0, frames), box, (short_side, short_side)))


def crop_views(frames: int, short_side: int, size: tuple[int, int], crops: int) -> View:
    """Returns views of squares that are spread evenly along the long side, without augmentation.

    Args:
      frames: of the clip.
      short_side: height and width of the canvas, in pixels.
      size: height and width of the frames in pixels.
      crops: number of squares, at least 2.

    Raises:
      UserError: the short side of the frames is larger than `short_side`.
    """
    side = min(size)
    corners = np.rint(np.linspace((0, 0), np.subtract(size, side), crops)).astype(int)
    span, canvas = (0, frames), (short_side, short_side)
    return stack(
        [
            _plain_view(make_cut(size, span, (top, left, side, side), canvas))
            for top, left in corners.tolist()
        ]
    )


def canvas_size(short_side: int, augment: VideoAugment) -> tuple[int, int]:
    """Returns height and width of a canvas for any box in frames with this short side.

    For frames of any length, one side of the box is at most the short side, and the other is longer
    by at most the aspect ratio (each rounded to pixels).

    Args:
      short_side: of the frames, in pixels.
      augment: range of the aspect ratio.
    """
    longest = max(augment.aspect[1], 1 / augment.aspect[0], 1.0)
    return short_side, math.floor((short_side + 0.5) * longest + 0.5)


def random_box(
    height: int, width: int, augment: VideoAugment, rng: random.Random
) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of a random box of a frame.

    As torchvision's RandomResizedCrop: uniform area and log-uniform aspect ratio, drawn until the
    box fits into the frame; after 10 attempts, the largest central box in the range of aspects.

    Args:
      height: of the frame, in pixels.
      width: of the frame, in pixels.
      augment: ranges of area and aspect.
      rng: random generator.
    """
    low, high = augment.aspect
    for _ in range(_CROP_ATTEMPTS):
        area = height * width * rng.uniform(*augment.area)
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = rng.randint(0, height - box_height)
            left = rng.randint(0, width - box_width)
            return top, left, box_height, box_width
    box_height = min(height, round(width / low))
    box_width = min(width, round(height * high))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _local_view(
    video: VideoConfig, size: tuple[int, int], canvas: tuple[int, int], rng: random.Random
) -> View:
    start = rng.randint(0, video.frames - video.local_frames)
    return _view(size, (start, video.local_frames), video.local_augment, canvas, rng)


def _view(
    size: tuple[int, int],
    span: tuple[int, int],
    augment: VideoAugment,
    canvas: tuple[int, int],
    rng: random.Random,
) -> View:
    cut = make_cut(size, span, random_box(*size, augment, rng), canvas)
    view = {**_plain_view(cut), "transposed": np.bool_(cut.transposed)}
    if augment.flip:
        view["flip"] = np.bool_(rng.random() < augment.flip)
    view |= _jitter(augment, rng)
    if augment.grayscale:
        view["grayscale"] = np.bool_(rng.random() < augment.grayscale)
    if augment.blur:
        view["blur_sigma"] = _blur_sigma(augment, rng)
    return view


def _blur_sigma(augment: VideoAugment, rng: random.Random) -> np.ndarray:
    along, down = augment.blur_sigma
    if augment.blur_sigma_mode == "range":
        along = down = rng.uniform(along, down)
    return np.array((along, down), np.float32) * (rng.random() < augment.blur)


def _jitter(augment: VideoAugment, rng: random.Random) -> View:
    drawn: View = {}
    for name in ("brightness", "contrast", "saturation"):
        if strength := getattr(augment, name):
            drawn[name] = np.float32(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    if augment.hue:
        drawn["hue"] = np.float32(rng.uniform(-augment.hue, augment.hue))
    if drawn:
        drawn["order"] = np.array(rng.sample(range(4), 4), np.int32)
    return drawn


def _plain_view(cut: Cut) -> View:
    """Returns a video view without augmentation."""
    return {"frames": cut, "box": np.array(cut.size_on_canvas, np.float32)}
