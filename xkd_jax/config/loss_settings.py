"""Settings of the objective: its losses, their weights, and the teachers' temperatures."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from data_pipelines.field_ranges import Doc, Range, above, at_least
from data_pipelines.loader_config import Modality
from xkd_jax.config.directions import directions


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; computations that only losses of weight 0 need are skipped.

    The total is the weighted sum divided by the sum of the weights. The defaults are the paper's
    5 L_ae + 1 L_kd + 1 L_da, each of which is the mean of its two terms here.
    """

    reconstruct_video: Annotated[float, at_least(0), Doc("error of the masked video patches")] = 2.5
    reconstruct_audio: Annotated[float, at_least(0), Doc("error of the masked audio patches")] = 2.5
    distill_video_to_audio: Annotated[
        float, at_least(0), Doc("cross entropy from the video teacher to the audio student")
    ] = 0.5
    distill_audio_to_video: Annotated[
        float, at_least(0), Doc("cross entropy from the audio teacher to the video student")
    ] = 0.5
    align_students: Annotated[
        float, at_least(0), Doc("distance of the students' video and audio outputs")
    ] = 0.5
    align_teachers: Annotated[
        float, at_least(0), Doc("distance of the teachers' video and audio outputs")
    ] = 0.5


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
    """Softmax temperature of one teacher."""

    start: Annotated[float, above(0), Doc("at step 0")]
    end: Annotated[float, above(0), Doc("after warmup_epochs, which change it linearly")]
    warmup_epochs: Annotated[int, at_least(0), Doc("epochs from start to end")] = 30


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective (docs/method.md)."""

    weights: LossWeights = LossWeights()
    refinement: Annotated[
        Literal["mean", "softmax", "none"],
        Doc(
            "weights of the teachers' tokens from cross-modal attention: relative to their mean,"
            " their softmax, or all 1"
        ),
    ] = "mean"
    teacher_view: Annotated[
        Literal["global", "local"], Doc("the views that teachers get for distillation")
    ] = "global"
    alignment: Annotated[
        str, Doc("distance of the alignment losses, a name of losses.ALIGNMENTS")
    ] = "mmd"
    student_temperature: Annotated[float, above(0), Doc("softmax temperature of students")] = 0.1
    video_teacher_temperature: TemperatureConfig = TemperatureConfig(0.1, 0.1)
    audio_teacher_temperature: TemperatureConfig = TemperatureConfig(0.07, 0.07)
    center_momentum: Annotated[
        float, Range(0, 1), Doc("weight of the old center in its moving mean, per step")
    ] = 0.9


def losses_of(modalities: tuple[Modality, ...]) -> set[str]:
    """The names of `LossWeights` that these modalities are enough for."""
    alone = {f"reconstruct_{m}" for m in modalities}
    pairs = directions(modalities)
    between = {"align_students", "align_teachers"} if pairs else set()
    return alone | {f"distill_{direction.name}" for direction in pairs} | between
