"""Ablations of the losses, with those of the paper's Table 3."""

from __future__ import annotations

import dataclasses

from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.loss_settings import LossConfig


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One ablation.

    Attributes:
      title: name in tables of results.
      without: losses with weight 0.
      refined: whether the teachers' tokens are refined across modalities.
      modalities: modalities that are trained.
    """

    title: str
    without: tuple[str, ...]
    refined: bool = True
    modalities: tuple[Modality, ...] = MODALITIES

    def of(self, loss: LossConfig) -> LossConfig:
        """Returns the losses of this ablation."""
        weights = dataclasses.replace(loss.weights, **dict.fromkeys(self.without, 0.0))
        refinement = loss.refinement if self.refined else "none"
        return dataclasses.replace(loss, weights=weights, refinement=refinement)


_ALIGNMENT = ("align_students", "align_teachers")
_DISTILLATION = ("distill_video_to_audio", "distill_audio_to_video")
# By the variant of a pretraining config.
ABLATIONS = {
    "reconstruction_video": Ablation(
        "video reconstruction",
        (*_ALIGNMENT, *_DISTILLATION, "reconstruct_audio"),
        modalities=("video",),
    ),
    "reconstruction_audio": Ablation(
        "audio reconstruction",
        (*_ALIGNMENT, *_DISTILLATION, "reconstruct_video"),
        modalities=("audio",),
    ),
    "reconstruction": Ablation("reconstruction", (*_ALIGNMENT, *_DISTILLATION)),
    "distillation": Ablation("+ distillation", _ALIGNMENT, refined=False),
    "alignment": Ablation("+ alignment", _DISTILLATION),
    "no_refinement": Ablation("all, no refinement", (), refined=False),
}
