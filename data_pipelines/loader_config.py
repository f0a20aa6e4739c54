"""What the loader can be asked to do: the views of a clip, the data set, and how it is read.

A run's config (`xkd_jax.config.pretraining`) extends `LoaderConfig`. The defaults are the paper's
Kinetics-400 settings. Fields are free choices only: whatever follows from them is a property.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
Interpolation = Literal["linear", "cubic"]


@dataclasses.dataclass(frozen=True)
class VideoAugment:
    """Random changes to one kind of video view, constant over its frames.

    `area` is the crop's share of the frame; `brightness`, `contrast` and `saturation` are the
    half-ranges of factors around 1, `hue` of a turn of the color circle around 0. `blur_sigma`, in
    pixels of the view, is the `range` that one sigma for both directions is drawn from (paper) or a
    `pair`: always the first along the row and the second down the column (released code).
    """

    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.2
    grayscale: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_sigma_is: Literal["range", "pair"] = "range"


@dataclasses.dataclass(frozen=True)
class AudioAugment:
    """Random changes to one kind of audio view.

    `volume` is the half-range of the waveform's gain around 1. With `crop`, the spectrogram is
    centerd on a zero canvas `canvas` times its size (mel, time), a box of `mel_scale` times its
    height and `time_scale` times its width is cut out, clipped to the canvas, and resized back.
    """

    volume: float = 0.1
    crop: bool = False
    canvas: tuple[float, float] = (1.0, 1.5)
    mel_scale: tuple[float, float] = (0.6, 1.5)
    time_scale: tuple[float, float] = (0.6, 1.5)


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

    frame_rate: float = 8.0
    frames: int = 32
    size: int = 112
    patch: tuple[int, int, int] = (4, 16, 16)
    mask_ratio: float = 0.85
    local_views: int = 1
    local_frames: int = 8
    local_size: int = 96
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
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

    sample_rate: int = 16000
    fft: int = 1024
    hop: int = 143
    mels: int = 80
    columns: int = 448
    patch: tuple[int, int] = (4, 16)
    mask_ratio: float = 0.80
    local_views: int = 1
    local_columns: int = 112
    mean: float = -5.3688107
    std: float = 4.410007
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
    train_clips: int = 8000
    test_clips: int = 2000
    split: str = "train"
    records: int = 0
    short_side: int = 128
    threads: int = 16
    workers: int = 0
    worker_timeout: float = 600.0
    prefetch: int = 2
    verify_checksums: bool = True
    shuffle_window: int = 0
    drop_last: bool = False


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """What decides the batches of a run."""

    seed: int = 0
    batch_size: int = 256
    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    data: DataConfig = DataConfig()

    @property
    def clip_seconds(self) -> float:
        return self.video.frames / self.video.frame_rate

    def modality(self, name: Modality) -> VideoConfig | AudioConfig:
        return self.video if name == "video" else self.audio
