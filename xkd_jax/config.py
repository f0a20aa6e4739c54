"""What a run can be asked to do: the schema of every file in `configs/`.

The dataclasses below are the schema and their defaults are the paper's Kinetics-400 settings. A
config file starts from `default()` (a `ConfigDict`), changes what its experiment changes, and
command-line overrides come on top; `resolve` then checks keys, types and values once and returns
the frozen dataclasses that the rest of the program sees. Fields are free choices only: whatever
follows from them is a property here, so an override can't leave a stale value behind.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import ml_collections

from xkd_jax import config_checks
from xkd_jax.config_schema import build
from xkd_jax.errors import UserError

Modality = Literal["video", "audio"]
Attention = Literal["xla", "cudnn"]
Remat = Literal["none", "products", "all"]
Interpolation = Literal["linear", "cubic"]
MODALITIES: tuple[Modality, ...] = ("video", "audio")


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Width, depth and number of heads of a stack of blocks."""

    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4


# Encoder and decoder of each named size (paper, appendix, and the released code; huge is ours).
SIZES: dict[str, tuple[Transformer, Transformer]] = {
    "tiny": (Transformer(192, 12, 3), Transformer(96, 4, 3)),
    "small": (Transformer(384, 12, 6), Transformer(192, 4, 6)),
    "base": (Transformer(768, 12, 12), Transformer(384, 4, 12)),
    "large": (Transformer(1024, 24, 16), Transformer(512, 8, 16)),
    "huge": (Transformer(1280, 32, 16), Transformer(512, 8, 16)),
}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Projection head: `layers` linear layers, the last to `bottleneck`, then to `outputs`."""

    layers: int = 3
    hidden: int = 2048
    bottleneck: int = 256
    outputs: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks.

    `size` is a name of `SIZES` or `ENCODER:DECODER`, each as width/depth/heads, for example
    `128/4/4:64/2/4`. `variant` says what the modalities share: nothing (`xkd`), the student's
    Transformer blocks (`mas`), or the student's and the teacher's (`mats`). `remat` is what of a
    block is computed again for its gradient, to save memory: nothing, all but the matrix products
    with weights, or all.
    """

    variant: Literal["xkd", "mas", "mats"] = "xkd"
    size: str = "base"
    head: HeadConfig = HeadConfig()
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    attention: Attention = "xla"
    remat: Remat = "none"

    def _transformers(self) -> tuple[Transformer, Transformer]:
        if self.size in SIZES:
            return SIZES[self.size]
        try:
            encoder, decoder = (
                Transformer(*(int(n) for n in part.split("/"))) for part in self.size.split(":")
            )
        except (ValueError, TypeError):
            raise UserError(
                f"model.size is {self.size!r}: give one of {', '.join(SIZES)}, or ENCODER:DECODER"
                " as width/depth/heads triples such as 128/4/4:64/2/4."
            ) from None
        return encoder, decoder

    @property
    def encoder(self) -> Transformer:
        return self._transformers()[0]

    @property
    def decoder(self) -> Transformer:
        return self._transformers()[1]

    @property
    def shares_student_blocks(self) -> bool:
        return self.variant in ("mas", "mats")

    @property
    def shares_teacher_blocks(self) -> bool:
        return self.variant == "mats"


@dataclasses.dataclass(frozen=True)
class VideoAugment:
    """Random changes to one kind of video view, constant over its frames.

    `area` is the crop's share of the frame; `brightness`, `contrast` and `saturation` are the
    half-ranges of factors around 1, `hue` of a turn of the colour circle around 0. `blur_sigma`, in
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
    greyscale: float = 0.0
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


class _Views:
    """What follows from the shapes of a modality's views and of the patches they are cut into."""

    patch: tuple[int, ...]

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Without the colour channel, which comes last."""
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
class VideoConfig(_Views):
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
    local_augment: VideoAugment = VideoAugment(area=(0.08, 0.4), greyscale=0.2, blur=0.5)

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
        """Numbers in one flattened cuboid, (frames height width colour)."""
        return 3 * math.prod(self.patch)


@dataclasses.dataclass(frozen=True)
class AudioConfig(_Views):
    """Audio views: log-mel spectrograms of `mels` bands, `columns` hops of `hop` samples.

    `mean` and `std` normalise log(mel power + 2^-23) (spec section 1).
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
class LossWeights:
    """Weight of each named loss; what only a zero-weighted loss needs is not computed.

    The total is the weighted sum over the sum of the weights. The defaults are the paper's
    5 L_ae + 1 L_kd + 1 L_da, each of which is the mean of its two terms here.
    """

    reconstruct_video: float = 2.5
    reconstruct_audio: float = 2.5
    distill_video_to_audio: float = 0.5
    distill_audio_to_video: float = 0.5
    align_students: float = 0.5
    align_teachers: float = 0.5


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
    """A teacher's softmax temperature: `start` to `end`, linearly over `warmup_epochs`."""

    start: float
    end: float
    warmup_epochs: int = 30


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective (spec section 3)."""

    weights: LossWeights = LossWeights()
    refinement: Literal["mean", "softmax", "none"] = "mean"
    teacher_view: Literal["global", "local"] = "global"
    alignment: str = "mmd"
    student_temperature: float = 0.1
    video_teacher_temperature: TemperatureConfig = TemperatureConfig(0.1, 0.1)
    audio_teacher_temperature: TemperatureConfig = TemperatureConfig(0.07, 0.07)
    center_momentum: float = 0.9


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW under a cosine schedule, and the teachers' moving average.

    `learning_rate` is reached after `warmup_epochs` and falls to `final_learning_rate` at the
    end. `clip` bounds the gradient norm of each student tensor by itself (0: no clipping).
    """

    learning_rate: float = 1e-4
    final_learning_rate: float = 0.0
    warmup_epochs: float = 30.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.3
    clip: float = 0.3
    ema_start: float = 0.997
    ema_end: float = 1.0


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
class MeshConfig:
    """Devices along each axis of the mesh; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Save every `every_steps` and at the end; keep the last `keep_last` and every `keep_every`.

    Both periods are in steps; 0 turns one off.
    """

    every_steps: int = 2000
    keep_last: int = 3
    keep_every: int = 0


@dataclasses.dataclass(frozen=True)
class NonfiniteConfig:
    """What to do when a loss or another metric of a step is not finite.

    `stop` the run; `skip` the step's update; or `rollback` the state to the last checkpoint, with
    the step, and so the data and the schedules, going on. `limit` skipped steps, or rollbacks, are
    put up with from one start of the program; the next one stops it.
    """

    action: Literal["stop", "skip", "rollback"] = "stop"
    limit: int = 10


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """What the frozen encoders know of the data set's labels.

    With `enabled`, linear probes before and after training; every `neighbours_every` steps (0:
    never), the accuracy of the `neighbours` nearest neighbours. Both learn from the first
    `train_records` of the training split and are scored on all of `split`.
    """

    enabled: bool = False
    split: str = "test"
    train_records: int = 3000
    neighbours_every: int = 0
    neighbours: int = 20


@dataclasses.dataclass(frozen=True)
class Config:
    """One pretraining run."""

    seed: int = 0
    batch_size: int = 256
    epochs: float = 800.0
    max_steps: int = 0
    log_every: int = 50
    model: ModelConfig = ModelConfig()
    video: VideoConfig = VideoConfig()
    audio: AudioConfig = AudioConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    probe: ProbeConfig = ProbeConfig()

    @property
    def clip_seconds(self) -> float:
        return self.video.frames / self.video.frame_rate

    def modality(self, name: Modality) -> VideoConfig | AudioConfig:
        return self.video if name == "video" else self.audio


def default() -> ml_collections.ConfigDict:
    """The paper's Kinetics-400 settings, for a config file to start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def resolve(raw: ml_collections.ConfigDict) -> Config:
    """Checks a config against the schema and returns it as frozen dataclasses.

    Raises:
      UserError: a key that the schema lacks (the nearest valid key is named), a value of the wrong
        type, or values that don't fit together.
    """
    config = build(Config, raw.to_dict())
    _check(config)
    return config


def _check(config: Config) -> None:
    _check_size(config.model)
    for name in MODALITIES:
        _check_views(config, name)
    _check_loss(config)
    if config.epochs <= 0 and config.max_steps <= 0:
        raise UserError("epochs is 0: give epochs or max_steps above 0.")
    config_checks.seed(config.seed)
    config_checks.mesh(config.mesh)
    config_checks.above_zero(
        config, "data.worker_timeout", "video.frame_rate", "audio.std", "optimizer.eps"
    )
    config_checks.at_least(
        1, config, "batch_size", "log_every", "audio.sample_rate", "audio.fft", "audio.hop",
        "model.head.layers", "model.head.hidden", "model.head.bottleneck", "model.head.outputs",
        "probe.train_records", "probe.neighbours",
    )  # fmt: skip
    config_checks.at_least(
        0, config, "epochs", "max_steps", "data.threads", "data.workers", "data.prefetch",
        "optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.warmup_epochs",
        "optimizer.weight_decay", "optimizer.clip", "checkpoint.every_steps",
        "checkpoint.keep_last", "checkpoint.keep_every", "nonfinite.limit",
        "probe.neighbours_every", "data.shuffle_window",
    )  # fmt: skip
    config_checks.below_one(config, "optimizer.b1", "optimizer.b2")
    config_checks.up_to(1, config, "optimizer.ema_start", "optimizer.ema_end")
    for kind in ("global_augment", "local_augment"):
        config_checks.video_augment(config, f"video.{kind}")
        config_checks.audio_augment(config, f"audio.{kind}")


def _check_size(model: ModelConfig) -> None:
    for stack in (model.encoder, model.decoder):
        if min(dataclasses.astuple(stack)) <= 0 or stack.width % stack.heads:
            raise UserError(
                f"model.size is {model.size!r}: every width must be a positive multiple of its"
                " number of heads."
            )


def _check_views(config: Config, name: Modality) -> None:
    view = config.modality(name)
    config_checks.below_one(config, f"{name}.mask_ratio")
    config_checks.at_least(0, config, f"{name}.local_views")
    if min(view.patch) <= 0:
        raise UserError(f"{name}.patch is {view.patch}: give sides above 0.")
    shapes = {"global": view.global_shape} | (
        {"local": view.local_shape} if view.local_views else {}
    )
    for kind, shape in shapes.items():
        if any(n <= 0 or n % p for n, p in zip(shape, view.patch, strict=True)):
            raise UserError(
                f"The {kind} {name} view {shape} is not a whole number of patches {view.patch}:"
                f" change {name}.patch or the view's size."
            )
    if not 0 < round(view.tokens * (1 - view.mask_ratio)) < view.tokens:
        raise UserError(
            f"{name}.mask_ratio is {view.mask_ratio}: it must leave at least one of"
            f" {view.tokens} tokens and remove at least one."
        )
    larger = (a > b for a, b in zip(view.local_shape, view.global_shape, strict=True))
    if view.local_views and any(larger):
        raise UserError(
            f"The local {name} view {view.local_shape} is larger than the global one"
            f" {view.global_shape}: make it no larger along any axis."
        )
    if config.loss.teacher_view == "local" and not view.local_views:
        raise UserError(
            f"loss.teacher_view is 'local' but {name}.local_views is 0: give at least one."
        )


def _check_loss(config: Config) -> None:
    weights = dataclasses.asdict(config.loss.weights)
    if not all(0 <= w < math.inf for w in weights.values()) or not any(weights.values()):
        raise UserError(
            f"loss.weights are {weights}: none may be negative and at least one must be above 0."
        )
    config_checks.above_zero(config, "loss.student_temperature")
    config_checks.up_to(1, config, "loss.center_momentum")
    for name in MODALITIES:
        temperature = f"loss.{name}_teacher_temperature"
        config_checks.above_zero(config, f"{temperature}.start", f"{temperature}.end")
        config_checks.at_least(0, config, f"{temperature}.warmup_epochs")
