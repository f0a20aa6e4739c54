"""The views of a clip, created on the host, and random numbers for the device.

The host draws the parameters of the augmentation, which the device applies (`xkd_jax.augment`). The
device skips an augmentation whose parameter is not in the dictionary (switched off in the config,
or evaluation). The tables of a view's arrays are in `video_views` and `audio_views`. Each view has
a separate random generator, so its values do not depend on other views.
"""

from __future__ import annotations

import random

import numpy as np

from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import audio_views, video_views
from data_pipelines.read.frame_cuts import cut_frames
from data_pipelines.read.stacked_views import RngOf, View

# {"video" or "audio": {"global": a view, "local": views stacked along a leading axis}}
Views = dict[str, dict[str, View]]


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
      {modality: {"global": view, "local": stacked views}} with the arrays of `video_views` and
      `audio_views`; `frames` is a `Cut`, and `Cuts` for local views.

    Raises:
      UserError: the short side of the frames is larger than `data.short_side`.
    """
    views: Views = {}
    if size is not None:
        short_side = config.data.short_side
        views["video"] = video_views.train_views(config.video, short_side, size, rng_of)
    if log_mel is not None:
        views["audio"] = audio_views.train_views(config.audio, log_mel, rng_of)
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
        short_side = config.data.short_side
        view = video_views.central_view(config.video.frames, short_side, size, side_fraction)
        views["video"] = {"global": view}
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
    squares = video_views.crop_views(config.video.frames, config.data.short_side, size, crops)
    return {**draw_eval_views(config, None, log_mel), "video": {"global": squares}}


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
