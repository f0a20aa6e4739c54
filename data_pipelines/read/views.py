"""The views of a clip, as the host makes them: boxes cut out and random numbers drawn.

The host copies each view's box of pixels, as it is, into a canvas of one size for all clips, and
draws what shall be done to it; the device does it (`xkd_jax.augment`). A draw that is in the
dictionary is applied, one that is not (switched off in the config, or evaluation) costs nothing.
Boxes are drawn before the frames are decoded, so that each frame is cut into its batch while the
processor's cache still has it. A canvas is as high as the short side of the frames and as wide as
the longest box; only a box of a tall frame may be higher, and it is laid there transposed. Around
a box a canvas is left as it was, since nothing reads it: filling it takes as long as the cutting.

A view of video holds:

| key           | type                | what                                                       |
|---------------|---------------------|------------------------------------------------------------|
| `frames`      | uint8 [t, H, W, 3]  | the box at the canvas' origin, anything around it          |
| `box`         | float32 [2]         | its height and width on the canvas, in pixels              |
| `transposed`  | bool                | its rows are the canvas' columns                           |
| `flip`        | bool                | left and right swapped                                     |
| `brightness`  | float32             | factor; so are `contrast` and `saturation`                 |
| `hue`         | float32             | turns of the color circle                                 |
| `order`       | int32 [4]           | the order of brightness 0, contrast 1, saturation 2, hue 3 |
| `grayscale`   | bool                |                                                            |
| `blur_sigma`  | float32 [2]         | along the row, down the column, in pixels of the view;     |
|               |                     | 0: none                                                    |

and a view of audio:

| key       | type                   | what                                              |
|-----------|------------------------|---------------------------------------------------|
| `log_mel` | uint16 [mels, columns] | fixed point, see `schema.encode_log_mel`          |
| `gain`    | float32                | factor of the waveform                            |
| `box`     | int32 [4]              | top, left, height, width on a canvas around it,   |
|           |                        | see `canvas_of_log_mel`                           |

Every view draws from a generator of its own, so what one gets doesn't depend on the others.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import (
    AudioAugment,
    AudioConfig,
    LoaderConfig,
    VideoAugment,
    VideoConfig,
)

View = dict[str, Any]
# {"video" or "audio": {"global": a view, "local": views stacked along a leading axis}}
Views = dict[str, dict[str, View]]
# Python's generators: for numbers drawn one by one they take a fifth of the time of NumPy's.
RngOf = Callable[[str], random.Random]

_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop


@dataclasses.dataclass(frozen=True)
class Cut:
    """The frames of a view before they are decoded: a box of some frames of a clip.

    Attributes:
      start: the first of the clip's frames.
      frames: how many.
      box: top, left, height and width.
      canvas: height and width of what the box is laid on, at its origin.
      transposed: whether the box's rows become the canvas' columns.
    """

    start: int
    frames: int
    box: tuple[int, int, int, int]
    canvas: tuple[int, int]
    transposed: bool = False
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that is cut."""
        return (self.frames, *self.canvas, 3)

    @property
    def laid(self) -> tuple[int, int]:
        """Height and width of the box on the canvas."""
        height, width = self.box[2:]
        return (width, height) if self.transposed else (height, width)

    def places(self, out: np.ndarray) -> Iterator[tuple[Cut, np.ndarray]]:
        """Yields each cut with its array in that of all of them, which is uint8 of `shape`."""
        yield self, out

    def write(self, frame: np.ndarray, out: np.ndarray) -> None:
        """Cuts one of the view's frames.

        Args:
          frame: uint8 [height, width, 3].
          out: where it goes, uint8 [H, W, 3].
        """
        top, left, height, width = self.box
        box = frame[top : top + height, left : left + width]
        if self.transposed:
            out[:width, :height] = cv2.transpose(box)
        else:
            out[:height, :width] = box


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Several views' frames, stacked along a leading axis."""

    cuts: tuple[Cut, ...]
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that is cut."""
        return (len(self.cuts), *self.cuts[0].shape)

    def places(self, out: np.ndarray) -> Iterator[tuple[Cut, np.ndarray]]:
        """Yields each cut with its array; see `Cut.places`."""
        yield from zip(self.cuts, out, strict=True)


def cut_frames(
    frames: Iterable[np.ndarray],
    held: int,
    count: int,
    pending: Sequence[tuple[Cut | Cuts, np.ndarray]],
) -> None:
    """Cuts the frames of a clip, each as it comes, into their places in all views.

    Args:
      frames: uint8 [height, width, 3] each.
      held: how many they are.
      count: frames in a clip; when they are more, those that are held are repeated in a cycle.
      pending: cuts, each with its array.
    """
    placed = [
        (cut, cut.start, cut.start + cut.frames, place)
        for cuts, out in pending
        for cut, place in cuts.places(out)
    ]
    for first, frame in enumerate(frames):
        for number in range(first, count, held):
            for cut, start, end, place in placed:
                if start <= number < end:
                    cut.write(frame, place[number - start])


def draw_train_views(
    config: LoaderConfig, size: tuple[int, int] | None, log_mel: np.ndarray | None, rng_of: RngOf
) -> Views:
    """Returns randomly drawn global and local views of a clip, their frames still to be cut.

    Args:
      config: of the run.
      size: height and width of the clip's `video.frames` frames, or None for no video views.
      log_mel: uint16 [mels, audio.columns], fixed point, or None for no audio views.
      rng_of: gives the random generator of a view by its name: `video/global`, `audio/local/0`.

    Returns:
      Views whose `frames` are a `Cut` (`Cuts` of the local views).

    Raises:
      UserError: the frames are larger than `data.short_side` says.
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
    """Returns the plain global views of a clip: the central square of the frames, all sound.

    The square's side is `side_fraction` of the frames' short side, in whole pixels. Other
    arguments, result and errors are those of `draw_train_views`.
    """
    views: Views = {}
    if size is not None:
        height, width = size
        side = max(1, round(side_fraction * min(size)))
        box = ((height - side) // 2, (width - side) // 2, side, side)
        canvas = (config.data.short_side, config.data.short_side)
        cut = _cut(size, (0, config.video.frames), box, canvas)
        views["video"] = {"global": _uncut(cut)}
    if log_mel is not None:
        views["audio"] = {"global": {"log_mel": log_mel}}
    return views


def draw_crop_views(
    config: LoaderConfig, size: tuple[int, int] | None, log_mel: np.ndarray | None, *, crops: int
) -> Views:
    """Returns the plain global views of a clip, of video `crops` squares instead of the central.

    The squares have the frame's short side and are spread evenly along the longer: of three, one
    lies at either end and one in the middle. They are stacked along a leading axis: `frames`
    [crops, t, C, C, 3] and `box` [crops, 2]. All else is as in `draw_eval_views`.
    """
    if size is None or crops == 1:
        return draw_eval_views(config, size, log_mel)
    side = min(size)
    corners = np.rint(np.linspace((0, 0), np.subtract(size, side), crops)).astype(int)
    stretch, canvas = (0, config.video.frames), (config.data.short_side,) * 2
    squares = [
        _uncut(_cut(size, stretch, (top, left, side, side), canvas))
        for top, left in corners.tolist()
    ]
    views = draw_eval_views(config, None, log_mel)
    return {**views, "video": {"global": _stack(squares)}}


def train_views(
    config: LoaderConfig, frames: np.ndarray | None, log_mel: np.ndarray | None, rng_of: RngOf
) -> Views:
    """Returns the views of `draw_train_views`, cut out of frames that are decoded already.

    There are zeros around the boxes. Arguments and errors are those of `draw_train_views`, but for
      frames: uint8 [video.frames, height, width, 3], or None for no video views.
    """
    return cut_out(draw_train_views(config, _size(frames), log_mel, rng_of), frames)


def _size(frames: np.ndarray | None) -> tuple[int, int] | None:
    return None if frames is None else (frames.shape[1], frames.shape[2])


def cut_out(views: Views, frames: np.ndarray | None) -> Views:
    """Puts the drawn parts of the frames, uint8 [frames, height, width, 3], in their places."""
    for view in views.get("video", {}).values():
        cut = view["frames"]
        view["frames"] = np.zeros(cut.shape, cut.dtype)
        if frames is not None:
            cut_frames(frames, len(frames), len(frames), [(cut, view["frames"])])
    return views


def canvas_size(short_side: int, augment: VideoAugment) -> tuple[int, int]:
    """Returns height and width of what holds any box cut from frames of that short side.

    However long the frames are, the side of a box that lies along the short side of the frame
    is at most that, and the other longer by the aspect ratio at most (each rounded to pixels).
    """
    longest = max(augment.aspect[1], 1 / augment.aspect[0], 1.0)
    return short_side, math.floor((short_side + 0.5) * longest + 0.5)


def random_box(
    height: int, width: int, augment: VideoAugment, rng: random.Random
) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of a random box of a frame.

    As torchvision's RandomResizedCrop: the area uniform, the aspect ratio log-uniform, drawn
    until the box fits into the frame; if it never does, a central box as near as can be.
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
    """Returns height and width of the zero canvas in whose center a spectrogram is laid."""
    return int(mels * augment.canvas[0]), int(columns * augment.canvas[1])


def _local_video_view(
    video: VideoConfig, size: tuple[int, int], canvas: tuple[int, int], rng: random.Random
) -> View:
    start = rng.randint(0, video.frames - video.local_frames)
    return _video_view(size, (start, video.local_frames), video.local_augment, canvas, rng)


def _video_view(
    size: tuple[int, int],
    stretch: tuple[int, int],
    augment: VideoAugment,
    canvas: tuple[int, int],
    rng: random.Random,
) -> View:
    cut = _cut(size, stretch, random_box(*size, augment, rng), canvas)
    view = {**_uncut(cut), "transposed": np.bool_(cut.transposed)}
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
    if augment.blur_sigma_is == "range":
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


def _cut(
    size: tuple[int, int],
    stretch: tuple[int, int],
    box: tuple[int, int, int, int],
    canvas: tuple[int, int],
) -> Cut:
    height, width = box[2:]
    if min(height, width) > canvas[0] or max(height, width) > canvas[1]:
        raise UserError(
            f"A frame of {size[0]}x{size[1]} pixels has a box of {height}x{width},"
            f" more than data.short_side allows for: set it to the data set's short side."
        )
    return Cut(*stretch, box, canvas, transposed=height > canvas[0])


def _uncut(cut: Cut) -> View:
    """Returns a view that is its frames and nothing else."""
    return {"frames": cut, "box": np.array(cut.laid, np.float32)}


def _local_audio_view(audio: AudioConfig, log_mel: np.ndarray, rng: random.Random) -> View:
    start = rng.randint(0, log_mel.shape[1] - audio.local_columns)
    return audio_view(log_mel[:, start : start + audio.local_columns], audio.local_augment, rng)


def audio_view(log_mel: np.ndarray, augment: AudioAugment, rng: random.Random) -> View:
    """A view of a spectrogram [mels, columns], with what the step does to it drawn from `rng`."""
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
