"""Settings of the training of a classifier, in an evaluation."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from data_pipelines.field_ranges import Doc, Range, above, at_least, below

CutmixAxes = Literal["height_width", "time_height"]


@dataclasses.dataclass(frozen=True)
class FitAugmentConfig:
    """Random changes to clips that train a classifier; 0 turns one off.

    RandAugment and erasing are the same in every frame. `xkd_jax.augment.mixing` has mixup and
    CutMix, `xkd_jax.augment.spec_augment` masks and time warping of spectrograms.
    """

    operations: Annotated[int, at_least(0), Doc("RandAugment's operations on each clip")] = 0
    magnitude: Annotated[
        float, Range(0, 10), Doc("magnitude of RandAugment's operations, at most 10")
    ] = 7.0
    erase: Annotated[float, Range(0, 1), Doc("probability that a box is erased")] = 0.0
    mixup: Annotated[float, at_least(0), Doc("alpha of mixup's Beta(alpha, alpha)")] = 0.0
    cutmix: Annotated[float, at_least(0), Doc("alpha of CutMix's Beta(alpha, alpha)")] = 0.0
    cutmix_axes: Annotated[
        CutmixAxes, Doc("axes of CutMix's boxes; time_height is that of the released code")
    ] = "height_width"
    mix_group: Annotated[
        int, at_least(0), Doc("clips of a batch that use the same random numbers; 0: all")
    ] = 0
    mel_masks: Annotated[int, at_least(0), Doc("number of frequency masks of a spectrogram")] = 0
    mel_mask: Annotated[
        int, at_least(0), Doc("largest width of a frequency mask, in mel bands")
    ] = 10
    time_masks: Annotated[int, at_least(0), Doc("number of time masks of a spectrogram")] = 0
    time_mask: Annotated[int, at_least(0), Doc("largest width of a time mask, in columns")] = 20
    time_warp: Annotated[int, at_least(0), Doc("largest shift of time warping, in columns")] = 0


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """A classifier trained by AdamW, on one random clip of each record and epoch."""

    learning_rate: Annotated[
        float, above(0), Doc("largest learning rate; with a constant schedule, of all steps")
    ] = 0.01
    final_learning_rate: Annotated[
        float, at_least(0), Doc("learning rate of the last step, if schedule is cosine")
    ] = 0.0
    schedule: Annotated[
        Literal["cosine", "constant"],
        Doc("cosine: after a linear warmup; constant: without warmup"),
    ] = "cosine"
    weight_decay: Annotated[
        float, at_least(0), Doc("AdamW's weight decay, multiplied by the learning rate")
    ] = 0.0
    epochs: Annotated[float, above(0), Doc("passes over the training records")] = 100.0
    warmup_epochs: Annotated[
        float, at_least(0), Doc("epochs of linear warmup from 0, if schedule is cosine")
    ] = 10.0
    b1: Annotated[float, below(1), Doc("decay of AdamW's first moment")] = 0.9
    b2: Annotated[float, below(1), Doc("decay of AdamW's second moment")] = 0.999
    eps: Annotated[float, above(0), Doc("added to AdamW's denominator")] = 1e-8
    accumulation_steps: Annotated[
        int,
        at_least(1),
        Doc("equal parts of a batch whose gradients are accumulated; mixing stays within a part"),
    ] = 1
    label_smoothing: Annotated[
        float, below(1), Doc("label smoothing: probability that is spread over all classes")
    ] = 0.0
    normalize: Annotated[bool, Doc("scale pooled features to length 1")] = False
    dropout: Annotated[float, below(1), Doc("rate of dropout of pooled features")] = 0.0
    layer_decay: Annotated[
        float,
        Range(0, 1, above=True),
        Doc("learning rate of an encoder's layer / that of the next layer, in finetuning"),
    ] = 1.0
    drop_path: Annotated[
        float, below(1), Doc("rate of stochastic depth in the last block, in finetuning")
    ] = 0.0
    average: Annotated[
        Literal["probabilities", "scores"],
        Doc("what is averaged over a record's test clips and crops; scores: the logits"),
    ] = "probabilities"
    augment: FitAugmentConfig = FitAugmentConfig()
