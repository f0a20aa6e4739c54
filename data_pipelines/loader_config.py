"""What the loader can be asked to do: the views of a clip, the data set, and how it is read.

A run's config (`xkd_jax.config.pretraining`) extends `LoaderConfig`. The defaults are the paper's
Kinetics-400 settings. Fields are free choices only: whatever follows from them is a property.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

from data_pipelines.field_ranges import Range, above, at_least, below, interval

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
Interpolation = Literal["linear", "cubic"]
SEED = Range(0, 2**32 - 1)  # JAX takes 32 bits of it


@dataclasses.dataclass(frozen=True)
class VideoAugment:
    """Random changes to one kind of video view, constant over its frames.

    `area` is the crop's share of the frame; `brightness`, `contrast` and `saturation` are the
    half-ranges of factors around 1, `hue` of a turn of the color circle around 0. `blur_sigma`, in
    pixels of the view, is the `range` that one sigma for both directions is drawn from (paper) or a
    `pair`: always the first along the row and the second down the column (released code).
    """

    area: Annotated[tuple[float, float], interval(1)] = (0.2, 1.0)
    aspect: Annotated[tuple[float, float], interval()] = (3 / 4, 4 / 3)
    flip: Annotated[float, Range(0, 1)] = 0.5
    brightness: Annotated[float, at_least(0)] = 0.4
    contrast: Annotated[float, at_least(0)] = 0.4
    saturation: Annotated[float, at_least(0)] = 0.4
    hue: Annotated[float, Range(0, 0.5)] = 0.2
    grayscale: Annotated[float, Range(0, 1)] = 0.0
    blur: Annotated[float, Range(0, 1)] = 0.0
    blur_sigma: Annotated[tuple[float, float], above(0)] = (0.1, 2.0)
    blur_sigma_is: Literal["range", "pair"] = "range"


@dataclasses.dataclass(frozen=True)
class AudioAugment:
    """Random changes to one kind of audio view.

    `volume` is the half-range of the waveform's gain around 1. With `crop`, the spectrogram is
    centerd on a zero canvas `canvas` times its size (mel, time), a box of `mel_scale` times its
    height and `time_scale` times its width is cut out, clipped to the canvas, and resized back.
    """

    volume: Annotated[float, Range(0, 1)] = 0.1
    crop: bool = False
    canvas: Annotated[tuple[float, float], at_least(1)] = (1.0, 1.5)
    mel_scale: Annotated[tuple[float, float], interval()] = (0.6, 1.5)
    time_scale: Annotated[tuple[float, float], interval()] = (0.6, 1.5)


class ViewConfig:
    """What follows from the shapes of a modality's views and of the patches they are cut into."""

    patch: tuple[int, ...]

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Without the color channel, which comes last."""
        raise NotImplementedError

    @property
    def local_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        """How positions are resized along each axis of the token grid; None: never."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of the global view along each axis of its shape."""
        return tuple(n // p for n, p in zip(self.global_shape, self.patch, strict=True))

    @property
    def local_grid(self) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(self.local_shape, self.patch, strict=True))

    @property
    def tokens(self) -> int:
        """Of the global view."""
        return math.prod(self.grid)


@dataclasses.dataclass(frozen=True)
class VideoConfig(ViewConfig):
    """Video views: frames at `frame_rate` per second, square, in pixels, cut into cuboids."""

    frame_rate: Annotated[float, above(0)] = 8.0
    frames: Annotated[int, at_least(1)] = 32
    size: Annotated[int, at_least(1)] = 112
    patch: Annotated[tuple[int, int, int], above(0, noun="sides")] = (4, 16, 16)
    mask_ratio: Annotated[float, below(1)] = 0.85
    local_views: Annotated[int, at_least(0)] = 1
    local_frames: Annotated[int, at_least(1)] = 8
    local_size: Annotated[int, at_least(1)] = 96
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[float, float, float], above(0)] = (0.229, 0.224, 0.225)
    global_augment: VideoAugment = VideoAugment()
    local_augment: VideoAugment = VideoAugment(area=(0.08, 0.4), grayscale=0.2, blur=0.5)

    @property
    def global_shape(self) -> tuple[int, ...]:
        """(frames, height, width)."""
        return (self.frames, self.size, self.size)

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        return ("linear", "linear", "linear")

    @property
    def local_shape(self) -> tuple[int, ...]:
        return (self.local_frames, self.local_size, self.local_size)

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened cuboid, (frames height width color)."""
        return 3 * math.prod(self.patch)


@dataclasses.dataclass(frozen=True)
class AudioConfig(ViewConfig):
    """Audio views: log-mel spectrograms of `mels` bands, `columns` hops of `hop` samples.

    `mean` and `std` normalize log(mel power + 2^-23).
    """

    sample_rate: Annotated[int, at_least(1)] = 16000
    fft: Annotated[int, at_least(1)] = 1024
    hop: Annotated[int, at_least(1)] = 143
    mels: Annotated[int, at_least(1)] = 80
    columns: Annotated[int, at_least(1)] = 448
    patch: Annotated[tuple[int, int], above(0, noun="sides")] = (4, 16)
    mask_ratio: Annotated[float, below(1)] = 0.80
    local_views: Annotated[int, at_least(0)] = 1
    local_columns: Annotated[int, at_least(1)] = 112
    mean: float = -5.3688107
    std: Annotated[float, above(0)] = 4.410007
    global_augment: AudioAugment = AudioAugment()
    local_augment: AudioAugment = AudioAugment(volume=0.2, crop=True)

    @property
    def global_shape(self) -> tuple[int, ...]:
        """(mel, time)."""
        return (self.mels, self.columns)

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        return (None, "cubic")

    @property
    def local_shape(self) -> tuple[int, ...]:
        return (self.mels, self.local_columns)

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch, (mel time)."""
        return math.prod(self.patch)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the shards are and how they are read.

    `threads` read and decode in this process; with `workers` above 0, as many processes do, each
    with `threads` threads. Neither changes what is read. Workers that give no batch for
    `worker_timeout` seconds are started again; of threads it is only said. `short_side` is the size
    in pixels of the frames that the shards store. `records` is how many clips the data set has, for
    plans made without it; a run counts them. `shuffle_window` 0 shuffles all records of an epoch;
    above, it takes shard after shard and shuffles within stretches of so many records, some
    batches' worth, for stores where reads far apart are slow. With `drop_last` an epoch ends with
    its last whole batch, as in the released code, and else the next epoch fills up its last batch.
    `dataset` `spoken_digits` makes its
    shards on first use (in `dir`, or in the run's folder), with recordings from `speech_dir` where
    that is given.
    """

    dataset: Literal["shards", "spoken_digits"] = "shards"
    dir: str = ""
    speech_dir: str = ""
    train_clips: Annotated[int, at_least(1)] = 8000
    test_clips: Annotated[int, at_least(1)] = 2000
    split: str = "train"
    records: Annotated[int, at_least(0)] = 0
    short_side: Annotated[int, at_least(1)] = 128
    threads: Annotated[int, at_least(0)] = 16
    workers: Annotated[int, at_least(0)] = 0
    worker_timeout: Annotated[float, above(0)] = 600.0
    prefetch: Annotated[int, at_least(0)] = 2
    verify_checksums: bool = True
    shuffle_window: Annotated[int, at_least(0)] = 0
    drop_last: bool = False


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """What decides the batches of a run."""

    seed: Annotated[int, SEED] = 0
    batch_size: Annotated[int, at_least(1)] = 256
    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    data: DataConfig = DataConfig()

    @property
    def clip_seconds(self) -> float:
        return self.video.frames / self.video.frame_rate

    def modality(self, name: Modality) -> VideoConfig | AudioConfig:
        """The views of one modality."""
        return getattr(self, name)
