"""The views of a clip, created on the host: boxes of pixels, and random numbers for the device.

The host copies the box of each view, without resizing, to a canvas with the same size for all
clips, and draws the parameters of the augmentation, which the device applies (`xkd_jax.augment`).
The device skips an augmentation whose parameter is not in the dictionary (switched off in the
config, or evaluation). The height of the canvas is the short side of the frames, and its width is
the length of the longest box. A box that is higher than the canvas, in a tall frame, is copied
transposed. Pixels around the box are not initialized, as nothing reads them and filling them takes
as long as the copy.

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

A view of audio has:

| key       | type                   | what                                              |
|-----------|------------------------|---------------------------------------------------|
| `log_mel` | uint16 [mels, columns] | fixed point, see `encode_log_mel`; float32 of a   |
|           |                        | filter bank (`AudioConfig.spectrogram`)           |
| `gain`    | float32                | factor of the waveform                            |
| `box`     | int32 [4]              | top, left, height, width on a canvas around it,   |
|           |                        | see `canvas_of_log_mel`                           |

Each view has a separate random generator, so its values do not depend on other views.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipelines.loader_config import (
    AudioAugment,
    AudioConfig,
    LoaderConfig,
    VideoAugment,
    VideoConfig,
)
from data_pipelines.read.frame_cuts import Cut, Cuts, cut_frames, make_cut

View = dict[str, Any]
# {"video" or "audio": {"global": a view, "local": views stacked along a leading axis}}
Views = dict[str, dict[str, View]]
# Python's generators take a fifth of the time of NumPy's for single numbers.
RngOf = Callable[[str], random.Random]

_CROP_ATTEMPTS = 10  # that of torchvision's RandomResizedCrop


def draw_train_views(
    config: LoaderConfig, size: tuple[int, int] | None, log_mel: np.ndarray | None, rng_of: RngOf
) -> Views:
    """Draws global and local views of a clip for training; their frames are pending cuts.

    Args:
      config: of the run.
      size: height and width of the clip's `video.frames` frames in pixels; None: no video.
      log_mel: [mels, audio.columns] of `clips.cut_log_mel`; None: no audio.
      rng_of: returns the random generator of a view by name, such as `video/global` or
        `audio/local/0`.

    Returns:
      {modality: {"global": view, "local": stacked views}} with the arrays in the tables above;
      `frames` is a `Cut`, and `Cuts` for local views.

    Raises:
      UserError: the short side of the frames is larger than `data.short_side`.
    """
    views: Views = {}
    if size is not None:
        video, whole = config.video, config.video.frames
        canvas = canvas_size(config.data.short_side, video.global_augment)
        rng = rng_of("video/global")
        views["video"] = {
            "global": _video_view(size, (0, whole), video.global_augment, canvas, rng)
        }
        if video.local_views:
            canvas = canvas_size(config.data.short_side, video.local_augment)
            rngs = [rng_of(f"video/local/{i}") for i in range(video.local_views)]
            local = [_local_video_view(video, size, canvas, rng) for rng in rngs]
            views["video"]["local"] = _stack(local)
    if log_mel is not None:
        rng = rng_of("audio/global")
        views["audio"] = {"global": audio_view(log_mel, config.audio.global_augment, rng)}
        if config.audio.local_views:
            rngs = [rng_of(f"audio/local/{i}") for i in range(config.audio.local_views)]
            local = [_local_audio_view(config.audio, log_mel, rng) for rng in rngs]
            views["audio"]["local"] = _stack(local)
    return views


def draw_eval_views(
    config: LoaderConfig,
    size: tuple[int, int] | None,
    log_mel: np.ndarray | None,
    *,
    side_fraction: float = 1.0,
) -> Views:
    """Returns the global views of a clip without augmentation: a central square, and all audio.

    Args:
      config: of the run.
      size: height and width of the clip's `video.frames` frames in pixels; None: no video.
      log_mel: [mels, audio.columns] of `clips.cut_log_mel`; None: no audio.
      side_fraction: side of the square / short side of the frames.

    Returns:
      {modality: {"global": view}}: `frames`, a `Cut`, and `box` float32 [2] of video; `log_mel` of
      audio.

    Raises:
      UserError: the short side of the frames is larger than `data.short_side`.
    """
    views: Views = {}
    if size is not None:
        height, width = size
        side = max(1, round(side_fraction * min(size)))
        box = ((height - side) // 2, (width - side) // 2, side, side)
        canvas = (config.data.short_side, config.data.short_side)
        cut = make_cut(size, (0, config.video.frames), box, canvas)
        views["video"] = {"global": _plain_view(cut)}
    if log_mel is not None:
        views["audio"] = {"global": {"log_mel": log_mel}}
    return views


def draw_crop_views(
    config: LoaderConfig, size: tuple[int, int] | None, log_mel: np.ndarray | None, *, crops: int
) -> Views:
    """Returns the global views of a clip without augmentation, with several squares of the video.

    The side of the squares is the frames' short side; they are spread evenly along the long side.

    Args:
      config: of the run.
      size: height and width of the clip's `video.frames` frames in pixels; None: no video.
      log_mel: [mels, audio.columns] of `clips.cut_log_mel`; None: no audio.
      crops: number of squares; 1: as `draw_eval_views`.

    Returns:
      {modality: {"global": view}}: `frames`, `Cuts` [crops, t, side, side, 3], and `box` float32
      [crops, 2] of video; `log_mel` of audio.

    Raises:
      UserError: the short side of the frames is larger than `data.short_side`.
    """
    if size is None or crops == 1:
        return draw_eval_views(config, size, log_mel)
    side = min(size)
    corners = np.rint(np.linspace((0, 0), np.subtract(size, side), crops)).astype(int)
    span, canvas = (0, config.video.frames), (config.data.short_side,) * 2
    squares = [
        _plain_view(make_cut(size, span, (top, left, side, side), canvas))
        for top, left in corners.tolist()
    ]
    views = draw_eval_views(config, None, log_mel)
    return {**views, "video": {"global": _stack(squares)}}


def train_views(
    config: LoaderConfig, frames: np.ndarray | None, log_mel: np.ndarray | None, rng_of: RngOf
) -> Views:
    """Draws views of a clip for training from decoded frames.

    Args:
      config: of the run.
      frames: uint8 [video.frames, height, width, 3]; None: no video.
      log_mel: [mels, audio.columns] of `clips.cut_log_mel`; None: no audio.
      rng_of: as in `draw_train_views`.

    Returns:
      The views of `draw_train_views` with arrays as `frames`; pixels around the boxes are zeros.

    Raises:
      UserError: the short side of the frames is larger than `data.short_side`.
    """
    return cut_out(draw_train_views(config, _size(frames), log_mel, rng_of), frames)


def blank_views(config: LoaderConfig) -> Views:
    """Returns views of a black and silent clip: the shapes and types of a row of a batch."""
    side = config.data.short_side
    frames = np.zeros((config.video.frames, side, side, 3), np.uint8)
    dtype = np.uint16 if config.audio.spectrogram == "log_mel" else np.float32
    log_mel = np.zeros((config.audio.mels, config.audio.columns), dtype)
    return train_views(
        config,
        frames if "video" in config.modalities else None,
        log_mel if "audio" in config.modalities else None,
        lambda stream: random.Random(0),
    )


def _size(frames: np.ndarray | None) -> tuple[int, int] | None:
    return None if frames is None else (frames.shape[1], frames.shape[2])


def cut_out(views: Views, frames: np.ndarray | None) -> Views:
    """Returns views with arrays as `frames` in place of pending cuts.

    Args:
      views: with a `Cut` or `Cuts` as `frames`.
      frames: of the clip, uint8 [frames, height, width, 3]; None: no video.
    """
    for view in views.get("video", {}).values():
        cut = view["frames"]
        view["frames"] = np.zeros(cut.shape, cut.dtype)
        if frames is not None:
            cut_frames([frames], len(frames), len(frames), [(cut, view["frames"])])
    return views


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


def canvas_of_log_mel(mels: int, columns: int, augment: AudioAugment) -> tuple[int, int]:
    """Returns height and width of the zero canvas around a centered spectrogram.

    Args:
      mels: height of the spectrogram, in bands.
      columns: width of the spectrogram.
      augment: ratio of the sizes.
    """
    return int(mels * augment.canvas[0]), int(columns * augment.canvas[1])


def _local_video_view(
    video: VideoConfig, size: tuple[int, int], canvas: tuple[int, int], rng: random.Random
) -> View:
    start = rng.randint(0, video.frames - video.local_frames)
    return _video_view(size, (start, video.local_frames), video.local_augment, canvas, rng)


def _video_view(
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


def _local_audio_view(audio: AudioConfig, log_mel: np.ndarray, rng: random.Random) -> View:
    start = rng.randint(0, log_mel.shape[1] - audio.local_columns)
    return audio_view(log_mel[:, start : start + audio.local_columns], audio.local_augment, rng)


def audio_view(log_mel: np.ndarray, augment: AudioAugment, rng: random.Random) -> View:
    """Draws the view of a spectrogram, [mels, columns], for training.

    Args:
      log_mel: of `clips.cut_log_mel`.
      augment: ranges of the random numbers.
      rng: random generator.
    """
    view: View = {"log_mel": log_mel}
    if augment.volume:
        view["gain"] = np.float32(rng.uniform(1 - augment.volume, 1 + augment.volume))
    if augment.crop:
        view["box"] = _random_log_mel_box(log_mel.shape, augment, rng)
    return view


def _random_log_mel_box(
    shape: tuple[int, ...], augment: AudioAugment, rng: random.Random
) -> np.ndarray:
    mels, columns = shape
    high, wide = canvas_of_log_mel(mels, columns, augment)
    height = min(max(int(rng.uniform(*augment.mel_scale) * mels), 1), high)
    width = min(max(int(rng.uniform(*augment.time_scale) * columns), 1), wide)
    top, left = rng.randint(0, high - height), rng.randint(0, wide - width)
    return np.array([top, left, height, width], np.int32)


def _stack(views: list[View]) -> View:
    return {
        key: Cuts(tuple(view[key] for view in views))
        if key == "frames"
        else np.array([view[key] for view in views])
        for key in views[0]
    }
