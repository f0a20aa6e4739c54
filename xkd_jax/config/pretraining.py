"""Settings of a pretraining run: the schema of every file in `configs/`.

The dataclasses are the schema; their defaults are the paper's Kinetics-400 settings. A config file
starts from `default()` (a `ConfigDict`) and changes some values; command-line overrides are applied
next. `resolve` then checks keys, types and ranges, and returns the frozen dataclasses that the rest
of the program reads. Fields are independent settings; derived values are properties, so that an
override can't leave them outdated.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import ml_collections

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Doc, Range, above, at_least, below
from data_pipelines.loader_config import (
    MODALITIES,
    LoaderConfig,
    Modality,
)
from xkd_jax.config import value_checks
from xkd_jax.config.architecture import Architecture, ModelConfig, check_size
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.encoder import input_fields
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.config.length import Length
from xkd_jax.config.loss_settings import LossConfig, LossWeights, TemperatureConfig, losses_of

Split = Literal["whole", "split"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine schedule, and the teachers' moving average."""

    learning_rate: Annotated[
        float, at_least(0), Doc("largest learning rate, after warmup_epochs")
    ] = 1e-4
    final_learning_rate: Annotated[
        float, at_least(0), Doc("learning rate of the last step, along a cosine")
    ] = 0.0
    warmup_epochs: Annotated[float, at_least(0), Doc("epochs of linear warmup from 0")] = 30.0
    b1: Annotated[float, below(1), Doc("decay of AdamW's first moment")] = 0.9
    b2: Annotated[float, below(1), Doc("decay of AdamW's second moment")] = 0.95
    eps: Annotated[float, above(0), Doc("added to AdamW's denominator")] = 1e-8
    weight_decay: Annotated[
        float, at_least(0), Doc("AdamW's weight decay, multiplied by the learning rate")
    ] = 0.3
    clip: Annotated[
        float, at_least(0), Doc("largest gradient norm of each parameter tensor; 0: no clipping")
    ] = 0.3
    ema_start: Annotated[
        float, Range(0, 1), Doc("momentum of the teachers' moving average at step 0")
    ] = 0.997
    ema_end: Annotated[
        float, Range(0, 1), Doc("momentum of the teachers' moving average at the last step")
    ] = 1.0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one axis may be -1, the remaining devices."""

    data: Annotated[
        int, Doc("number of devices that divide the batch; -1: all remaining devices")
    ] = -1
    fsdp: Annotated[int, Doc("number of devices that divide the batch and the parameters")] = 1
    tensor: Annotated[int, Doc("number of devices that divide heads and hidden units")] = 1
    optimizer: Annotated[
        Split,
        Doc(
            "weights and moments along the axis data: whole on each device, or split and gathered"
            " once a step (ZeRO)"
        ),
    ] = "whole"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sizes of the axes `axis_rules.MESH_AXES`."""
        return self.data, self.fsdp, self.tensor


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are saved, besides at the end, and which ones are kept."""

    every_steps: Annotated[
        int, at_least(0), Doc("steps between checkpoints; 0: at the end only")
    ] = 2000
    keep_last: Annotated[
        int, at_least(0), Doc("number of newest checkpoints that are kept; 0: all")
    ] = 3
    keep_every: Annotated[
        int, at_least(0), Doc("checkpoints of steps that are multiples of it are kept too; 0: off")
    ] = 0


@dataclasses.dataclass(frozen=True)
class LocalCheckpointsConfig:
    """Checkpoints on each host's own disk, between those of `checkpoint`."""

    dir: Annotated[
        str, Doc("folder on each host's own disk, with variables such as $TMPDIR; empty: off")
    ] = ""
    every_steps: Annotated[int, at_least(1), Doc("steps between local checkpoints")] = 200
    keep: Annotated[int, at_least(1), Doc("number of newest local checkpoints that are kept")] = 2


@dataclasses.dataclass(frozen=True)
class NonfiniteConfig:
    """The reaction to a loss or another metric that is not finite."""

    action: Annotated[
        Literal["stop", "skip", "rollback"],
        Doc(
            "stop the run; skip the step's update; or rollback parameters to the last checkpoint"
            " and continue with the next step's data"
        ),
    ] = "stop"
    limit: Annotated[
        int,
        at_least(0),
        Doc("number of skips or rollbacks since the program's start; one more stops the run"),
    ] = 10


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Classifiers of the data set's labels on frozen features, during a run."""

    enabled: Annotated[bool, Doc("fit linear probes before and after training")] = False
    split: Annotated[str, Doc("split to score, all of its records")] = "test"
    train_records: Annotated[
        int,
        at_least(1),
        Doc("number of training records of probes, the first of the training split"),
    ] = 3000
    knn_every: Annotated[
        int, at_least(0), Doc("steps between accuracies of nearest neighbors; 0: never")
    ] = 0
    k: Annotated[int, at_least(1), Doc("nearest neighbors")] = 20


@dataclasses.dataclass(frozen=True)
class Config(LoaderConfig):
    """One pretraining run."""

    epochs: Annotated[
        float, at_least(0), Doc("passes over the training split, unless max_steps is above 0")
    ] = 800.0
    max_steps: Annotated[int, at_least(0), Doc("length of the run, in steps; 0: epochs")] = 0
    log_every: Annotated[int, at_least(1), Doc("steps between printed lines and scalars")] = 50
    pictures_every: Annotated[
        int, at_least(0), Doc("steps between images of reconstructions and attention; 0: never")
    ] = 1000
    check_every: Annotated[
        int, at_least(0), Doc("steps between checks for silent corruption of devices; 0: never")
    ] = 0
    report: Annotated[
        bool, Doc("whether the run ends by writing report.html, a page of its results")
    ] = False
    wandb: Annotated[
        str, Doc("project of Weights & Biases that gets the metrics too; empty: none")
    ] = ""
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    local_checkpoints: LocalCheckpointsConfig = LocalCheckpointsConfig()
    nonfinite: NonfiniteConfig = NonfiniteConfig()
    probe: ProbeConfig = ProbeConfig()

    @property
    def architecture(self) -> Architecture:
        """The architecture of the run's networks."""
        return Architecture.of(self.model, self)

    @property
    def teacher_temperatures(self) -> dict[Modality, TemperatureConfig]:
        """The temperatures of the teachers of the run's modalities."""
        return {m: getattr(self.loss, f"{m}_teacher_temperature") for m in self.modalities}

    def length(self, records: int) -> Length:
        """The run's length on a data set of `records` records; errors are those of `Length.of`."""
        return Length.of(
            records,
            self.batch_size,
            epochs=self.epochs,
            max_steps=self.max_steps,
            drop_last=self.data.drop_last,
        )


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
    check_size(config.model)
    for name in config.modalities:
        _check_views(config, name)
    _check_weights(config.loss.weights)
    _check_modalities(config)
    if not config.epochs and not config.max_steps:
        raise UserError("epochs is 0: give epochs or max_steps above 0.")
    value_checks.mesh(config.mesh)
    value_checks.blur_sigma("video.global_augment", config.video.global_augment)
    value_checks.blur_sigma("video.local_augment", config.video.local_augment)


def _check_views(config: Config, name: Modality) -> None:
    view = config.modality(name)
    _check_spectrogram(name, input_fields(view))
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
            f"loss.teacher_view is 'local' but {name}.local_views is 0: give"
            f" --config.{name}.local_views=1, or --config.loss.teacher_view=global."
        )


def _check_spectrogram(name: Modality, fields: dict[str, Any]) -> None:
    if fields.get("spectrogram") != "kaldi":
        return
    from data_pipelines.format import kaldi  # imported here because --help does not need NumPy

    wanted = {"sample_rate": kaldi.SAMPLE_RATE, "fft": kaldi.FFT, "hop": kaldi.HOP}
    if any(fields[key] != value for key, value in wanted.items()):
        flags = " ".join(f"--config.{name}.{key}={value}" for key, value in wanted.items())
        raise UserError(f"{name}.spectrogram is 'kaldi', which has fixed rates: give {flags}.")


def _check_modalities(config: Config) -> None:
    """Refuses losses and variants that need a modality which the run lacks."""
    given, usable = ",".join(config.modalities), losses_of(config.modalities)
    weights = dataclasses.asdict(config.loss.weights)
    if lacking := [name for name, weight in weights.items() if weight and name not in usable]:
        keys = ", ".join(f"loss.weights.{name}" for name in lacking)
        raise UserError(
            f"modalities is {given}, and {keys} need{'s' * (len(lacking) == 1)} another modality:"
            f" give --config.modalities={','.join(MODALITIES)}, or weights of 0, as the variant"
            f" :reconstruction_{config.modalities[0]} of a config file does."
        )
    if len(config.modalities) == 1 and config.model.shares_student_blocks:
        raise UserError(
            f"model.variant is {config.model.variant!r}, in which modalities share blocks, and"
            f" modalities is {given}: give --config.model.variant=xkd."
        )


def _check_weights(config: LossWeights) -> None:
    weights = dataclasses.asdict(config)
    if not any(weights.values()):
        raise UserError(f"loss.weights are {weights}: at least one must be above 0.")
