"""What an evaluation can be asked to do: the schema of every file in `configs/eval/`.

It follows the rules of `xkd_jax.config`: dataclasses are the schema, a config file starts from
`default()`, overrides come on top, and `resolve` checks everything once. The networks and views are
not part of it: they come from the config that the checkpoint was written with.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import ml_collections

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Range, above, at_least, below
from data_pipelines.loader_config import MODALITIES, SEED, AudioAugment, Modality, VideoAugment
from xkd_jax.config import dataclass_schema, value_checks
from xkd_jax.config.pretraining import CheckpointConfig, MeshConfig

Protocol = Literal["svm", "linear", "attentive", "finetune", "knn", "retrieval"]
TestView = Literal["spread", "center"]
CutmixAxes = Literal["height_width", "time_height"]
Network = Literal["student", "teacher", "untrained", "log_mel"]
# Protocols that train a classifier step by step; the others work on features that are kept.
TRAINED: tuple[Protocol, ...] = ("linear", "attentive", "finetune")
# Keys, and the first parts of some, that don't decide a result: where things are and how they are
# computed. Checkpoints and data are told apart by their checksums.
CIRCUMSTANCES = (
    "checkpoint", "step", "features", "log_every", "mesh.", "save.", "data.dir", "data.threads",
    "data.workers", "data.prefetch", "data.verify_checksums", "fit.parts",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvalDataConfig:
    """Where the benchmark's shards are, and which of their records train and test.

    With `folds`, each of these official folds of `train_split` is an evaluation of its own, and
    `test_split` plays no part. `held_out` is the share of the training records that choose the
    SVM's cost. The other fields are those of pretraining.
    """

    dir: str = ""
    train_split: str = "train"
    test_split: str = "test"
    folds: tuple[int, ...] = ()
    held_out: Annotated[float, Range(0, 1, above=True, below=True)] = 0.2
    threads: Annotated[int, at_least(0)] = 16
    workers: Annotated[int, at_least(0)] = 0
    prefetch: Annotated[int, at_least(0)] = 2
    verify_checksums: bool = True


@dataclasses.dataclass(frozen=True)
class ClipsConfig:
    """The clips of a record.

    `train` clips start at random and are augmented as `video` and `audio` say; `test` clips are
    spread evenly and shown as `view` says: `spread`, in `crops` squares along the frame's longer
    side, each as high as its short side; `center`, in one square in the middle, of 87.5 % of the
    short side. (The authors' three crops for SVMs and linear layers are all that one, so that it is
    computed once, whatever `crops` is.) `size` is that of the squares in pixels; 0: the size that
    the network was pretrained with.
    """

    train: Annotated[int, at_least(1)] = 25
    test: Annotated[int, at_least(1)] = 3
    crops: Annotated[int, at_least(1)] = 3
    view: TestView = "spread"
    size: Annotated[int, at_least(0)] = 0
    video: VideoAugment = dataclasses.field(default_factory=VideoAugment)
    audio: AudioAugment = dataclasses.field(default_factory=AudioAugment)


@dataclasses.dataclass(frozen=True)
class SvmConfig:
    """Linear SVMs, one against the rest, with squared hinge loss (LIBLINEAR's LinearSVC).

    A class is solved when a step of Newton's method would lower its loss by no more than a share
    of `tolerance`.
    """

    costs: Annotated[tuple[float, ...], above(0)] = (1e-3, 1e-2, 1e-1, 1.0)
    tolerance: Annotated[float, above(0)] = 1e-6
    max_iterations: Annotated[int, at_least(1)] = 100


@dataclasses.dataclass(frozen=True)
class KnnConfig:
    """Nearest neighbors vote with weights exp(cosine / `temperature`)."""

    k: Annotated[int, at_least(1)] = 20
    temperature: Annotated[float, above(0)] = 0.07


@dataclasses.dataclass(frozen=True)
class FitAugmentConfig:
    """Random changes to clips that train a classifier; 0 turns one off.

    Video, the same in every frame: `operations` of RandAugment of strength `magnitude` (of 10),
    `erase` the probability of an erased box, and `mixup` and `cutmix` the parameters of their Beta
    distributions. `cutmix_axes` are those that CutMix cuts, and `mix_group` neighbors in a batch
    share their draws of mixup and CutMix (0: all); see `xkd_jax.augment.mixing`. Audio: `mel_masks`
    stretches of 0 to `mel_mask` bands and `time_masks` of 0 to `time_mask` columns masked, and the
    time warped by up to `time_warp` columns.
    """

    operations: Annotated[int, at_least(0)] = 0
    magnitude: Annotated[float, Range(0, 10)] = 7.0
    erase: Annotated[float, Range(0, 1)] = 0.0
    mixup: Annotated[float, at_least(0)] = 0.0
    cutmix: Annotated[float, at_least(0)] = 0.0
    cutmix_axes: CutmixAxes = "height_width"
    mix_group: Annotated[int, at_least(0)] = 0
    mel_masks: Annotated[int, at_least(0)] = 0
    mel_mask: Annotated[int, at_least(0)] = 10
    time_masks: Annotated[int, at_least(0)] = 0
    time_mask: Annotated[int, at_least(0)] = 20
    time_warp: Annotated[int, at_least(0)] = 0


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """A classifier trained step by step on one random clip a record and epoch, by AdamW.

    The learning rate rises linearly over `warmup_epochs` and falls to `final_learning_rate` along a
    cosine, or stays what it is. A batch is differentiated in `parts` of equal size, one after the
    other, of which one at a time needs memory; mixup and CutMix stay within a part. The pooled
    features are scaled to length 1 with `normalize`, then `dropout` acts on them. With finetuning
    each layer of the encoder learns `layer_decay` times as fast as the next, and up to `drop_path`
    of the samples skip a branch of a block. `augment` is what the training clips go through on top
    of `clips`. `average` is taken over a record's test clips and crops: of the probabilities of its
    classes, or of their logarithms before they are normalized, the scores.
    """

    learning_rate: Annotated[float, above(0)] = 0.01
    final_learning_rate: Annotated[float, at_least(0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: Annotated[float, at_least(0)] = 0.0
    epochs: Annotated[float, above(0)] = 100.0
    warmup_epochs: Annotated[float, at_least(0)] = 10.0
    b1: Annotated[float, below(1)] = 0.9
    b2: Annotated[float, below(1)] = 0.999
    eps: Annotated[float, above(0)] = 1e-8
    parts: Annotated[int, at_least(1)] = 1
    label_smoothing: Annotated[float, below(1)] = 0.0
    normalize: bool = False
    dropout: Annotated[float, below(1)] = 0.0
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    drop_path: Annotated[float, below(1)] = 0.0
    average: Literal["probabilities", "scores"] = "probabilities"
    augment: FitAugmentConfig = FitAugmentConfig()


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """One evaluation; `save` is for the checkpoints of those that train step by step.

    `checkpoint` is the folder of a pretraining run, `step` one of its checkpoints (0: the newest).
    `network` is the student or the teacher of the checkpoint, its networks untrained, or no network
    at all: the log-mel spectrogram's mean over time. `output` is what is read off a network: the
    mean over the encoder's patch tokens, or what the projection head makes of it. `share` of each
    class's training records are used, where records have several classes that of all of them.
    `features` is the folder in which extracted features are kept (default: in the run's);
    evaluations can share it.
    """

    protocol: Protocol = "svm"
    benchmark: str = ""
    checkpoint: str = ""
    step: Annotated[int, at_least(0)] = 0
    network: Network = "student"
    output: Literal["encoder", "head"] = "encoder"
    modality: Literal["video", "audio", "both"] = "video"
    share: Annotated[float, Range(0, 1, above=True)] = 1.0
    features: str = ""
    seed: Annotated[int, SEED] = 0
    batch_size: Annotated[int, at_least(1)] = 64
    log_every: Annotated[int, at_least(1)] = 50
    data: EvalDataConfig = dataclasses.field(default_factory=EvalDataConfig)
    clips: ClipsConfig = dataclasses.field(default_factory=ClipsConfig)
    svm: SvmConfig = dataclasses.field(default_factory=SvmConfig)
    knn: KnnConfig = dataclasses.field(default_factory=KnnConfig)
    fit: FitConfig = FitConfig()
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    save: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those whose encoders are evaluated."""
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
    value_checks.checkpoints_folder("checkpoint", config.checkpoint)
    value_checks.folder("features", config.features)
    value_checks.blur_sigma("clips.video", config.clips.video)
    value_checks.mesh(config.mesh)
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
    if config.share < 1:
        raise UserError(
            f"share is {config.share}, of the training records, and protocol is 'retrieval', which"
            " has none: give --config.share=1."
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
    """A batch consists of equal parts, and each of them of equal groups."""
    parts, group = config.fit.parts, config.fit.augment.mix_group
    if config.batch_size % parts:
        raise UserError(
            f"fit.parts is {parts}: give a divisor of the batch_size, {config.batch_size}."
        )
    if group and config.batch_size // parts % group:
        raise UserError(
            f"fit.augment.mix_group is {group}: give a divisor of the {config.batch_size // parts}"
            " clips that are differentiated at once, or 0."
        )
