"""Settings of an evaluation: the schema of every file in `configs/eval/`.

As in `xkd_jax.config.pretraining`, the dataclasses are the schema, a config file starts from
`default()`, command-line overrides are applied next, and `resolve` checks all of it. Networks and
views are not part of it: they come from the config that the checkpoint was written with.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import ml_collections

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Doc, Range, above, at_least
from data_pipelines.loader_config import (
    AUTOMATIC,
    MODALITIES,
    SEED,
    AudioAugment,
    Modality,
    Threads,
    VideoAugment,
    Workers,
)
from xkd_jax.config import dataclass_schema, value_checks
from xkd_jax.config.fit_settings import FitConfig
from xkd_jax.config.pretraining import CheckpointConfig, MeshConfig
from xkd_jax.config.stated_input import StatedAudio, StatedVideo

# A modality, or both together.
Evaluated = Literal["video", "audio", "both"]
# Kind of features: the mean of a network's tokens, or the head's output for it.
Output = Literal["encoder", "head"]
Protocol = Literal["svm", "linear", "attentive", "finetune", "knn", "retrieval"]
TestView = Literal["spread", "center"]
Network = Literal["student", "teacher", "untrained", "log_mel"]
# Protocols that train a classifier step by step; the others use stored features.
TRAINED: tuple[Protocol, ...] = ("linear", "attentive", "finetune")
# Keys, or prefixes of keys, that don't change a result: places, and how values are computed.
# Checkpoints and data are identified by their checksums, weights together with the settings given
# for them.
CIRCUMSTANCES = (
    "checkpoint", "step", "heads", "video.", "audio.", "features", "log_every", "mesh.", "save.",
    "data.dir", "data.threads", "data.workers", "data.prefetch", "data.verify_checksums",
    "fit.accumulation_steps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvalDataConfig:
    """The benchmark's shards, and which of their records train and test."""

    dir: Annotated[str, Doc("folder of the benchmark's shards")] = ""
    train_split: Annotated[str, Doc("split to train classifiers on")] = "train"
    test_split: Annotated[str, Doc("split that is scored; unused with folds")] = "test"
    folds: Annotated[
        tuple[int, ...], Doc("official folds of train_split, each evaluated separately; (): none")
    ] = ()
    held_out: Annotated[
        float,
        Range(0, 1, above=True, below=True),
        Doc("fraction of the training records on which the cost of top1_held_out_cost is chosen"),
    ] = 0.2
    threads: Threads = AUTOMATIC
    workers: Workers = AUTOMATIC
    prefetch: Annotated[int, at_least(0), Doc("batches that are read ahead")] = 2
    verify_checksums: Annotated[bool, Doc("check the checksum of each record")] = True


@dataclasses.dataclass(frozen=True)
class ClipsConfig:
    """The clips of a record: training clips start at random, test clips are spread evenly.

    The authors' three crops for SVMs and linear layers are all the same `center` square, which is
    therefore computed once, whatever `crops` is.
    """

    train: Annotated[int, at_least(1), Doc("number of clips of a training record")] = 25
    test: Annotated[int, at_least(1), Doc("number of clips of a test record")] = 3
    crops: Annotated[int, at_least(1), Doc("number of crops of a test clip, if view is spread")] = 3
    view: Annotated[
        TestView,
        Doc(
            "crops of test clips: spread: squares of the short side's size along the longer side;"
            " center: one square in the middle, 87.5 % of the short side"
        ),
    ] = "spread"
    size: Annotated[
        int, at_least(0), Doc("side of the network's frames, in pixels; 0: that of pretraining")
    ] = 0
    video: VideoAugment = dataclasses.field(default_factory=VideoAugment)
    audio: AudioAugment = dataclasses.field(default_factory=AudioAugment)


@dataclasses.dataclass(frozen=True)
class SvmConfig:
    """Linear SVMs, one against the rest, with squared hinge loss (LIBLINEAR's LinearSVC)."""

    costs: Annotated[
        tuple[float, ...],
        above(0),
        Doc("values of C; the best one on the test records counts (paper)"),
    ] = (1e-3, 1e-2, 1e-1, 1.0)
    tolerance: Annotated[
        float, above(0), Doc("largest relative decrease of the loss by the last Newton step")
    ] = 1e-6
    max_iterations: Annotated[int, at_least(1), Doc("Newton steps at most")] = 100


@dataclasses.dataclass(frozen=True)
class KnnConfig:
    """k nearest neighbors, weighted by exp(cosine similarity / temperature)."""

    k: Annotated[int, at_least(1), Doc("nearest neighbors")] = 20
    temperature: Annotated[float, above(0), Doc("divisor of cosine similarities")] = 0.07


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """One evaluation."""

    protocol: Annotated[Protocol, Doc("how features or encoders are evaluated")] = "svm"
    benchmark: Annotated[str, Doc("name of the benchmark in results and reports")] = ""
    checkpoint: Annotated[
        str,
        Doc(
            "workdir of a pretraining run; or weights as xkd_jax.load takes them, one path or one"
            " for each modality"
        ),
    ] = ""
    step: Annotated[int, at_least(0), Doc("step of the checkpoint; 0: the newest")] = 0
    network: Annotated[
        Network,
        Doc("untrained: initial parameters; log_mel: the spectrogram's mean over time, no network"),
    ] = "student"
    heads: Annotated[
        int, at_least(0), Doc("attention heads, if a file of weights lacks the number")
    ] = 0
    video: StatedVideo = dataclasses.field(default_factory=StatedVideo)
    audio: StatedAudio = dataclasses.field(default_factory=StatedAudio)
    output: Annotated[
        Output,
        Doc("features: the encoder's, pooled as by its authors, or the projection head's for them"),
    ] = "encoder"
    modality: Annotated[Evaluated, Doc("modalities whose encoders are evaluated")] = "video"
    train_fraction: Annotated[
        float,
        Range(0, 1, above=True),
        Doc("fraction of each class's training records (of all, with several classes a record)"),
    ] = 1.0
    features: Annotated[
        str, Doc("folder of stored features, which evaluations can share; default: in the workdir")
    ] = ""
    seed: Annotated[
        int, SEED, Doc("seed of clips, augmentation, held-out records and classifiers")
    ] = 0
    batch_size: Annotated[int, at_least(1), Doc("clips per batch, over all processes")] = 64
    log_every: Annotated[int, at_least(1), Doc("steps between printed lines, in training")] = 50
    data: EvalDataConfig = dataclasses.field(default_factory=EvalDataConfig)
    clips: ClipsConfig = dataclasses.field(default_factory=ClipsConfig)
    svm: SvmConfig = dataclasses.field(default_factory=SvmConfig)
    knn: KnnConfig = dataclasses.field(default_factory=KnnConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    save: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities whose encoders are evaluated."""
        return MODALITIES if self.modality == "both" else (self.modality,)


def default() -> ml_collections.ConfigDict:
    """The settings of UCF101's linear SVM, for a config file to start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(EvalConfig()))


def resolve(raw: ml_collections.ConfigDict) -> EvalConfig:
    """Checks a config against the schema and returns it as frozen dataclasses.

    Raises:
      UserError: a key that the schema lacks, a value of the wrong type or out of its field's range,
        or values that don't fit together.
    """
    config = dataclass_schema.build(EvalConfig, raw.to_dict())
    _check(config)
    return config


def _check(config: EvalConfig) -> None:
    if "://" not in config.checkpoint:
        value_checks.checkpoints_folder("checkpoint", config.checkpoint)
    value_checks.folder("features", config.features)
    value_checks.blur_sigma("clips.video", config.clips.video)
    value_checks.mesh(config.mesh)
    if config.mesh.optimizer != "whole":
        raise UserError("mesh.optimizer is for pretraining: leave it out of an evaluation.")
    if len(set(config.data.folds)) < len(config.data.folds):
        raise UserError(f"data.folds is {config.data.folds}: give each fold once.")
    if config.network == "log_mel" and (config.modality != "audio" or config.output != "encoder"):
        raise UserError(
            "network is 'log_mel', which has no encoder or head of video: give --config.modality"
            "=audio and --config.output=encoder."
        )
    if config.protocol == "retrieval":
        _check_retrieval(config)
    if config.protocol in TRAINED:
        _check_fit(config)


def _check_retrieval(config: EvalConfig) -> None:
    if config.modality != "both":
        raise UserError("protocol is 'retrieval': give --config.modality=both.")
    if config.train_fraction < 1:
        raise UserError(
            f"train_fraction is {config.train_fraction}, and protocol 'retrieval' has no training"
            " records: give --config.train_fraction=1."
        )


def _check_fit(config: EvalConfig) -> None:
    if config.modality == "both" or config.network == "log_mel" or config.output != "encoder":
        raise UserError(
            f"protocol is {config.protocol!r}, which reads the tokens of one encoder: give"
            " --config.modality=video or audio, another network than log_mel, and"
            " --config.output=encoder."
        )
    _check_division(config)


def _check_division(config: EvalConfig) -> None:
    """Checks that a batch consists of equal parts, and each part of equal groups."""
    parts, group = config.fit.accumulation_steps, config.fit.augment.mix_group
    if config.batch_size % parts:
        raise UserError(
            f"fit.accumulation_steps is {parts}: give a divisor of the batch_size,"
            f" {config.batch_size}."
        )
    if group and config.batch_size // parts % group:
        raise UserError(
            f"fit.augment.mix_group is {group}: give a divisor of the {config.batch_size // parts}"
            " clips that are differentiated at once, or 0."
        )
