"""What a run can be asked to do: the schema of every file in `configs/`.

The dataclasses below are the schema and their defaults are the paper's Kinetics-400 settings. A
config file starts from `default()` (a `ConfigDict`), changes what its experiment changes, and
command-line overrides come on top; `resolve` then checks keys, types and ranges once and returns
the frozen dataclasses that the rest of the program sees. Fields are free choices only: whatever
follows from them is a property here, so an override can't leave a stale value behind.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import ml_collections

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Range, above, at_least, below
from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality
from xkd_jax.config import value_checks
from xkd_jax.config.dataclass_schema import build

Attention = Literal["xla", "cudnn"]
Remat = Literal["none", "products", "all"]


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

    layers: Annotated[int, at_least(1)] = 3
    hidden: Annotated[int, at_least(1)] = 2048
    bottleneck: Annotated[int, at_least(1)] = 256
    outputs: Annotated[int, at_least(1)] = 8192


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
class LossWeights:
    """Weight of each named loss; what only a zero-weighted loss needs is not computed.

    The total is the weighted sum over the sum of the weights. The defaults are the paper's
    5 L_ae + 1 L_kd + 1 L_da, each of which is the mean of its two terms here.
    """

    reconstruct_video: Annotated[float, at_least(0)] = 2.5
    reconstruct_audio: Annotated[float, at_least(0)] = 2.5
    distill_video_to_audio: Annotated[float, at_least(0)] = 0.5
    distill_audio_to_video: Annotated[float, at_least(0)] = 0.5
    align_students: Annotated[float, at_least(0)] = 0.5
    align_teachers: Annotated[float, at_least(0)] = 0.5


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
    """A teacher's softmax temperature: `start` to `end`, linearly over `warmup_epochs`."""

    start: Annotated[float, above(0)]
    end: Annotated[float, above(0)]
    warmup_epochs: Annotated[int, at_least(0)] = 30


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective (docs/method.md)."""

    weights: LossWeights = LossWeights()
    refinement: Literal["mean", "softmax", "none"] = "mean"
    teacher_view: Literal["global", "local"] = "global"
    alignment: str = "mmd"
    student_temperature: Annotated[float, above(0)] = 0.1
    video_teacher_temperature: TemperatureConfig = TemperatureConfig(0.1, 0.1)
    audio_teacher_temperature: TemperatureConfig = TemperatureConfig(0.07, 0.07)
    center_momentum: Annotated[float, Range(0, 1)] = 0.9


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW under a cosine schedule, and the teachers' moving average.

    `learning_rate` is reached after `warmup_epochs` and falls to `final_learning_rate` at the
    end. `clip` bounds the gradient norm of each student tensor by itself (0: no clipping).
    """

    learning_rate: Annotated[float, at_least(0)] = 1e-4
    final_learning_rate: Annotated[float, at_least(0)] = 0.0
    warmup_epochs: Annotated[float, at_least(0)] = 30.0
    b1: Annotated[float, below(1)] = 0.9
    b2: Annotated[float, below(1)] = 0.95
    eps: Annotated[float, above(0)] = 1e-8
    weight_decay: Annotated[float, at_least(0)] = 0.3
    clip: Annotated[float, at_least(0)] = 0.3
    ema_start: Annotated[float, Range(0, 1)] = 0.997
    ema_end: Annotated[float, Range(0, 1)] = 1.0


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

    every_steps: Annotated[int, at_least(0)] = 2000
    keep_last: Annotated[int, at_least(0)] = 3
    keep_every: Annotated[int, at_least(0)] = 0


@dataclasses.dataclass(frozen=True)
class NonfiniteConfig:
    """What to do when a loss or another metric of a step is not finite.

    `stop` the run; `skip` the step's update; or `rollback` the state to the last checkpoint, with
    the step, and so the data and the schedules, going on. `limit` skipped steps, or rollbacks, are
    put up with from one start of the program; the next one stops it.
    """

    action: Literal["stop", "skip", "rollback"] = "stop"
    limit: Annotated[int, at_least(0)] = 10


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """What the frozen encoders know of the data set's labels.

    With `enabled`, linear probes before and after training; every `knn_every` steps (0:
    never), the accuracy of the `k` nearest neighbors. Both learn from the first
    `train_records` of the training split and are scored on all of `split`.
    """

    enabled: bool = False
    split: str = "test"
    train_records: Annotated[int, at_least(1)] = 3000
    knn_every: Annotated[int, at_least(0)] = 0
    k: Annotated[int, at_least(1)] = 20


@dataclasses.dataclass(frozen=True)
class Config(LoaderConfig):
    """One pretraining run."""

    epochs: Annotated[float, at_least(0)] = 800.0
    max_steps: Annotated[int, at_least(0)] = 0
    log_every: Annotated[int, at_least(1)] = 50
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    probe: ProbeConfig = ProbeConfig()


def default() -> ml_collections.ConfigDict:
    """The paper's Kinetics-400 settings, for a config file to start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def resolve(raw: ml_collections.ConfigDict) -> Config:
    """Checks a config against the schema and returns it as frozen dataclasses.

    Raises:
      UserError: a key that the schema lacks (the nearest valid key is named), a value of the wrong
        type or out of its field's range, or values that don't fit together.
    """
    config = build(Config, raw.to_dict())
    _check(config)
    return config


def _check(config: Config) -> None:
    _check_size(config.model)
    for name in MODALITIES:
        _check_views(config, name)
    _check_weights(config.loss.weights)
    if not config.epochs and not config.max_steps:
        raise UserError("epochs is 0: give epochs or max_steps above 0.")
    value_checks.mesh(config.mesh)
    value_checks.blur_sigma("video.global_augment", config.video.global_augment)
    value_checks.blur_sigma("video.local_augment", config.video.local_augment)


def _check_size(model: ModelConfig) -> None:
    for stack in (model.encoder, model.decoder):
        if min(dataclasses.astuple(stack)) <= 0 or stack.width % stack.heads:
            raise UserError(
                f"model.size is {model.size!r}: every width must be a positive multiple of its"
                " number of heads."
            )


def _check_views(config: Config, name: Modality) -> None:
    view = config.modality(name)
    shapes = {"global": view.global_shape} | (
        {"local": view.local_shape} if view.local_views else {}
    )
    for kind, shape in shapes.items():
        if any(n % p for n, p in zip(shape, view.patch, strict=True)):
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


def _check_weights(config: LossWeights) -> None:
    weights = dataclasses.asdict(config)
    if not any(weights.values()):
        raise UserError(f"loss.weights are {weights}: at least one must be above 0.")
