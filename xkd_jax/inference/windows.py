"""Windows of files: their length and distance, in seconds and in frames or columns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from data_pipelines.errors import UserError
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import clips
from xkd_jax.config.encoder import loader_config
from xkd_jax.inference.trained_model import BATCH_SIZE, Model

Pool = Literal["window", "file", "none"]
# Length in seconds of an interval that is decoded at a time.
STRETCH = 600.0
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class EmbedOptions:
    """Options of the features of files.

    Attributes:
      window: length of a window in seconds; None: the clip length of the encoder's training.
      hop: distance of windows in seconds; None: the window's length.
      pool: "window": features of each window; "file": their mean, one row per file; "none": the
        tokens of each window.
      batch_size: windows per batch.
    """

    window: float | None = None
    hop: float | None = None
    pool: Pool = "window"
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if self.pool not in ("window", "file", "none"):
            raise UserError(f"pool is {self.pool!r}: give 'window', 'file' or 'none'.")
        for name in ("window", "hop"):
            value = getattr(self, name)
            if value is not None and not 0 < value < STRETCH:
                raise UserError(f"{name} is {value}: give seconds above 0 and below {STRETCH:g}.")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: give at least 1.")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of a model with given options, in frames and columns."""

    model: Model
    options: EmbedOptions
    seconds: float
    hop: float
    config: LoaderConfig

    @classmethod
    def of(cls, model: Model, options: EmbedOptions) -> Windows:
        """Returns the windows, rounded to whole frames.

        Args:
          model: the encoders.
          options: length and distance of windows.

        Raises:
          UserError: a window is not a whole number of patches.
        """
        loader = loader_config(model.config, model.short_side)
        clip = loader.clip_seconds
        seconds = options.window or clip
        if abs(seconds - clip) > _ROUNDING:
            loader = _of_length(model, loader, seconds)
        return cls(model, options, seconds, options.hop or seconds, loader)

    def starts(self, record: Record) -> list[float]:
        """Returns the starts of windows in seconds of the record; the last one ends at its end."""
        rate = self.rate(record)
        total = len(record.frames) or clips.sound_columns(record, self.config.audio)
        length, step = round(self.seconds * rate), max(1, round(self.hop * rate))
        if not record.frames and "audio" in self.model.config:
            length = self.config.audio.columns
        last = max(total - length, 0)
        places = list(range(0, last + 1, step))
        if places[-1] < last:
            places.append(last)
        return [place / rate for place in places]

    def rate(self, record: Record) -> float:
        """Returns positions per second: frames, or columns of a record without frames."""
        if record.frames:
            return self.config.video.frame_rate
        return self.config.audio.sample_rate / self.config.audio.hop


def _of_length(model: Model, loader: LoaderConfig, seconds: float) -> LoaderConfig:
    """Views of windows of another length, whose positions are interpolated."""
    changes: dict[str, Any] = {}
    if "video" in model.config and loader.video.frames > 1:
        frames, side = seconds * loader.video.frame_rate, loader.video.patch[0]
        if abs(frames / side - round(frames / side)) > _ROUNDING:
            raise UserError(
                f"window is {seconds:g} s, {frames:g} frames: give a multiple of"
                f" {side / loader.video.frame_rate:g} s, which a patch has."
            )
        changes["video"] = dataclasses.replace(loader.video, frames=round(frames))
    if "audio" in model.config:
        columns, side = seconds * loader.audio.sample_rate / loader.audio.hop, loader.audio.patch[1]
        whole = max(1, math.floor(columns / side + 0.5)) * side
        changes["audio"] = dataclasses.replace(loader.audio, columns=whole)
    return dataclasses.replace(loader, **changes)
