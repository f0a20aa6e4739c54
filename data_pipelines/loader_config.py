"""Settings of the loader: the views of a clip, the data set, and how it is read.

A run's config (`xkd_jax.config.pretraining`) extends `LoaderConfig`. The defaults are the paper's
Kinetics-400 settings. Fields are independent settings; derived values are properties.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

from data_pipelines.field_ranges import Doc, Range, above, at_least, below, interval

Modality = Literal["video", "audio"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")
Interpolation = Literal["linear", "cubic"]
Spectrogram = Literal["log_mel", "kaldi"]
SEED = Range(0, 2**32 - 1)  # JAX uses 32 bits
AUTOMATIC = -1  # see `loader_processes.resolved`
Threads = Annotated[
    int,
    at_least(AUTOMATIC),
    Doc("threads that read and decode; -1: 2 in each worker, or 16 without workers"),
]
Workers = Annotated[
    int,
    at_least(AUTOMATIC),
    Doc(
        "processes that read and decode; 0: threads of the main process; -1: three for each four"
        " cores of at least eight (docs/data.md)"
    ),
]


@dataclasses.dataclass(frozen=True)
class VideoAugment:
    """Random changes to one kind of video view, the same in all of its frames."""

    area: Annotated[
        tuple[float, float],
        interval(1),
        Doc("range of the crop's area, as a fraction of the frame"),
    ] = (0.2, 1.0)
    aspect: Annotated[
        tuple[float, float], interval(), Doc("range of the crop's width / height")
    ] = (3 / 4, 4 / 3)
    flip: Annotated[float, Range(0, 1), Doc("probability of a horizontal flip")] = 0.5
    brightness: Annotated[
        float, at_least(0), Doc("the factor is drawn from 1 - value to 1 + value")
    ] = 0.4
    contrast: Annotated[
        float, at_least(0), Doc("the factor is drawn from 1 - value to 1 + value")
    ] = 0.4
    saturation: Annotated[
        float, at_least(0), Doc("the factor is drawn from 1 - value to 1 + value")
    ] = 0.4
    hue: Annotated[
        float, Range(0, 0.5), Doc("largest shift, in turns of the color circle, either way")
    ] = 0.2
    grayscale: Annotated[float, Range(0, 1), Doc("probability of conversion to grayscale")] = 0.0
    blur: Annotated[float, Range(0, 1), Doc("probability of a Gaussian blur")] = 0.0
    blur_sigma: Annotated[
        tuple[float, float], above(0), Doc("sigma of the blur, in pixels of the view")
    ] = (0.1, 2.0)
    blur_sigma_mode: Annotated[
        Literal["range", "pair"],
        Doc(
            "range: one sigma for both axes is drawn from blur_sigma (paper); pair: its first value"
            " along rows and its second along columns (released code)"
        ),
    ] = "range"


@dataclasses.dataclass(frozen=True)
class AudioAugment:
    """Random changes to one kind of audio view."""

    volume: Annotated[
        float, Range(0, 1), Doc("the waveform's gain is drawn from 1 - value to 1 + value")
    ] = 0.1
    crop: Annotated[
        bool,
        Doc(
            "center the spectrogram on a zero canvas, cut out a random box, clip it to the canvas"
            " and resize it back"
        ),
    ] = False
    canvas: Annotated[
        tuple[float, float], at_least(1), Doc("size of the canvas / the spectrogram's (mel, time)")
    ] = (1.0, 1.5)
    mel_scale: Annotated[
        tuple[float, float], interval(), Doc("range of the box's height / the spectrogram's")
    ] = (0.6, 1.5)
    time_scale: Annotated[
        tuple[float, float], interval(), Doc("range of the box's width / the spectrogram's")
    ] = (0.6, 1.5)


class ViewConfig:
    """Properties derived from the shapes of a modality's views and patches."""

    patch: tuple[int, ...]

    @property
    def modality(self) -> Modality:
        """The modality of these views."""
        raise NotImplementedError

    @property
    def mask_ratio(self) -> float:
        """Fraction of the patch tokens that the student does not see."""
        raise NotImplementedError

    @property
    def local_views(self) -> int:
        """Local views of a clip."""
        raise NotImplementedError

    @property
    def mean(self) -> tuple[float, ...] | float:
        """Subtracted from views, of each channel where there are some."""
        raise NotImplementedError

    @property
    def std(self) -> tuple[float, ...] | float:
        """Divides views after the mean is subtracted."""
        raise NotImplementedError

    @property
    def channels(self) -> tuple[int, ...]:
        """Axes of a view after those of its shape: color, or none."""
        return ()

    @property
    def patch_values(self) -> int:
        """Values of one flattened patch, channels last."""
        return math.prod((*self.patch, *self.channels))

    @property
    def seconds(self) -> float:
        """Length of the global view."""
        raise NotImplementedError

    @property
    def described(self) -> str:
        """The global view in words: its shape, length and rate or kind."""
        return f"{' x '.join(map(str, self.global_shape))} ({self.seconds:.3g} s)"

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Shape of the global view, without channels."""
        raise NotImplementedError

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of a local view, without channels."""
        raise NotImplementedError

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        """Resize method of positions along each axis of the token grid; None: never resized."""
        raise NotImplementedError

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens of the global view along each axis of its shape."""
        return tuple(n // p for n, p in zip(self.global_shape, self.patch, strict=True))

    @property
    def local_grid(self) -> tuple[int, ...]:
        """Tokens of a local view along each axis of its shape."""
        return tuple(n // p for n, p in zip(self.local_shape, self.patch, strict=True))

    @property
    def tokens(self) -> int:
        """Number of patch tokens of the global view."""
        return math.prod(self.grid)


@dataclasses.dataclass(frozen=True)
class VideoConfig(ViewConfig):
    """Video views: square frames, cut into cuboids."""

    frame_rate: Annotated[float, above(0), Doc("frames per second")] = 8.0
    frames: Annotated[int, at_least(1), Doc("number of frames of the global view")] = 32
    size: Annotated[int, at_least(1), Doc("side of the global view's frames, in pixels")] = 112
    patch: Annotated[
        tuple[int, int, int],
        above(0, noun="sides"),
        Doc("sides of a patch: frames, and pixels of height and width"),
    ] = (4, 16, 16)
    mask_ratio: Annotated[
        float, below(1), Doc("fraction of the global view's tokens that are masked")
    ] = 0.85
    local_views: Annotated[int, at_least(0), Doc("number of local views of a clip; 0: none")] = 1
    local_frames: Annotated[int, at_least(1), Doc("number of frames of a local view")] = 8
    local_size: Annotated[int, at_least(1), Doc("side of a local view's frames, in pixels")] = 96
    mean: Annotated[
        tuple[float, float, float], Doc("subtracted from red, green and blue in [0, 1]")
    ] = (0.485, 0.456, 0.406)
    std: Annotated[
        tuple[float, float, float],
        above(0),
        Doc("divisor of red, green and blue after the subtraction"),
    ] = (0.229, 0.224, 0.225)
    global_augment: VideoAugment = VideoAugment()
    local_augment: VideoAugment = VideoAugment(area=(0.08, 0.4), grayscale=0.2, blur=0.5)
    kernel: Annotated[
        Literal["auto", "xla"],
        Doc(
            "implementation of resizing, augmentation and cutting of patches; auto: this project's"
            " kernels on TPUs, xla elsewhere"
        ),
    ] = "auto"

    @property
    def modality(self) -> Modality:
        return "video"

    @property
    def channels(self) -> tuple[int, ...]:
        return (3,)

    @property
    def seconds(self) -> float:
        """Length of the global view."""
        return self.frames / self.frame_rate

    @property
    def described(self) -> str:
        """Frames x height x width, and the rate."""
        return f"{super().described}, {self.frame_rate:g} frames a second"

    @property
    def global_shape(self) -> tuple[int, ...]:
        """(frames, height, width)."""
        return (self.frames, self.size, self.size)

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        """Linear along every axis."""
        return ("linear", "linear", "linear")

    @property
    def local_shape(self) -> tuple[int, ...]:
        """(frames, height, width)."""
        return (self.local_frames, self.local_size, self.local_size)


@dataclasses.dataclass(frozen=True)
class AudioConfig(ViewConfig):
    """Audio views: spectrograms."""

    spectrogram: Annotated[
        Spectrogram,
        Doc(
            "log_mel: that of the shards; kaldi: Kaldi's filter bank, made from waveforms that the"
            " shards keep (--waveform)"
        ),
    ] = "log_mel"
    sample_rate: Annotated[int, at_least(1), Doc("samples per second (Hz)")] = 16000
    fft: Annotated[int, at_least(1), Doc("length of the Fourier transform, in samples")] = 1024
    hop: Annotated[int, at_least(1), Doc("distance of two columns, in samples")] = 143
    mels: Annotated[int, at_least(1), Doc("mel bands")] = 80
    columns: Annotated[
        int, at_least(1), Doc("number of columns of the global view, one each hop")
    ] = 448
    patch: Annotated[
        tuple[int, int], above(0, noun="sides"), Doc("sides of a patch: mel bands and columns")
    ] = (4, 16)
    mask_ratio: Annotated[
        float, below(1), Doc("fraction of the global view's tokens that are masked")
    ] = 0.80
    local_views: Annotated[int, at_least(0), Doc("number of local views of a clip; 0: none")] = 1
    local_columns: Annotated[int, at_least(1), Doc("number of columns of a local view")] = 112
    mean: Annotated[float, Doc("subtracted from log(mel power + 2^-23)")] = -5.3688107
    std: Annotated[float, above(0), Doc("divisor after the subtraction")] = 4.410007
    global_augment: AudioAugment = AudioAugment()
    local_augment: AudioAugment = AudioAugment(volume=0.2, crop=True)

    @property
    def modality(self) -> Modality:
        return "audio"

    @property
    def seconds(self) -> float:
        """Length of the global view."""
        return self.columns * self.hop / self.sample_rate

    @property
    def described(self) -> str:
        """Mel x time, and the kind of the spectrogram."""
        kinds = {"log_mel": "log-mel spectrogram", "kaldi": "Kaldi's filter bank of the waveform"}
        return f"{super().described}, {kinds[self.spectrogram]}"

    @property
    def global_shape(self) -> tuple[int, ...]:
        """(mel, time)."""
        return (self.mels, self.columns)

    @property
    def interpolation(self) -> tuple[Interpolation | None, ...]:
        """Cubic in time; the mel axis keeps its size."""
        return (None, "cubic")

    @property
    def local_shape(self) -> tuple[int, ...]:
        """(mel, time)."""
        return (self.mels, self.local_columns)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The place of the shards, and how they are read."""

    dataset: Annotated[
        Literal["shards", "spoken_digits"],
        Doc("shards of dir, or spoken digits that are made on first use"),
    ] = "shards"
    dir: Annotated[
        str, Doc("folder of the shards; of spoken digits, the default is the workdir")
    ] = ""
    videos: Annotated[
        str,
        Doc("folder of videos, whose shards are made on first use, in dir or else in the workdir"),
    ] = ""
    speech_dir: Annotated[
        str, Doc("folder of recordings for spoken_digits; empty: synthetic voices")
    ] = ""
    train_clips: Annotated[int, at_least(1), Doc("number of training clips of spoken_digits")] = (
        8000
    )
    test_clips: Annotated[int, at_least(1), Doc("number of test clips of spoken_digits")] = 2000
    waveforms: Annotated[
        bool, Doc("whether spoken_digits keeps waveforms, which audio.spectrogram=kaldi needs")
    ] = False
    split: Annotated[str, Doc("split to train on")] = "train"
    records: Annotated[
        int, at_least(0), Doc("records of the split, for --plan without data; a run counts them")
    ] = 0
    short_side: Annotated[
        int, at_least(1), Doc("short side of the frames that the shards store, in pixels")
    ] = 128
    threads: Threads = AUTOMATIC
    workers: Workers = AUTOMATIC
    worker_timeout: Annotated[
        float,
        above(0),
        Doc("seconds without a batch after which workers restart; threads only print a warning"),
    ] = 600.0
    prefetch: Annotated[int, at_least(0), Doc("batches that are read ahead")] = 2
    verify_checksums: Annotated[bool, Doc("check the checksum of each record")] = True
    shuffle_window: Annotated[
        int,
        at_least(0),
        Doc(
            "0: shuffle all records of an epoch; above: shuffle shards, then records within windows"
            " of this many, for stores with slow random access"
        ),
    ] = 0
    drop_last: Annotated[
        bool,
        Doc(
            "true: an epoch ends with its last whole batch (released code); false: the next epoch"
            " fills up the batch"
        ),
    ] = False


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """Settings that determine the batches of a run."""

    seed: Annotated[int, SEED, Doc("seed of parameters, order, augmentation and masks")] = 0
    batch_size: Annotated[int, at_least(1), Doc("clips per step, over all processes")] = 256
    modalities: Annotated[
        tuple[Modality, ...], Doc("what is read and trained: video,audio or one of them")
    ] = MODALITIES
    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    data: DataConfig = DataConfig()

    @property
    def clip_seconds(self) -> float:
        """Length of a clip, in seconds: of the video, or of the sound if alone or longer."""
        alone = "video" not in self.modalities
        return self.audio.seconds if alone or self.sound_is_longer else self.video.seconds

    @property
    def sound_is_longer(self) -> bool:
        """Whether a clip's sound is longer than its video by more than a frame.

        Its frames are then in the middle of the sound.
        """
        of_both = len(self.modalities) == len(MODALITIES)
        return of_both and self.audio.seconds > self.video.seconds + 1 / self.video.frame_rate

    def modality(self, name: Modality) -> ViewConfig:
        """Returns the view settings of one modality."""
        return getattr(self, name)
