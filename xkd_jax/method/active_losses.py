"""The losses with a nonzero weight, and the outputs that they need."""

from __future__ import annotations

import dataclasses

from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.directions import Direction, directions
from xkd_jax.config.loss_settings import LossWeights


@dataclasses.dataclass(frozen=True)
class ActiveLosses:
    """The losses with a nonzero weight, and the outputs that they need.

    weights: {name of `LossWeights`: weight}.
    """

    weights: dict[str, float]

    @classmethod
    def of(cls, weights: LossWeights) -> ActiveLosses:
        """Returns the losses with a nonzero weight."""
        return cls({name: w for name, w in dataclasses.asdict(weights).items() if w})

    @property
    def reconstructed(self) -> tuple[Modality, ...]:
        """Modalities whose patches are predicted."""
        return tuple(m for m in MODALITIES if f"reconstruct_{m}" in self.weights)

    @property
    def distilled(self) -> tuple[Direction, ...]:
        """Directions of distillation."""
        return tuple(d for d in directions(MODALITIES) if f"distill_{d.name}" in self.weights)

    @property
    def projected(self) -> tuple[Modality, ...]:
        """Modalities whose student's head is used."""
        taught = {d.student for d in self.distilled}
        return tuple(m for m in MODALITIES if m in taught or self.aligns("students"))

    @property
    def encoded(self) -> tuple[Modality, ...]:
        """Modalities whose masked global view the student encodes."""
        return tuple(m for m in MODALITIES if m in (*self.reconstructed, *self.projected))

    @property
    def uses_teachers(self) -> bool:
        """Whether a loss needs the teachers' outputs."""
        return bool(self.distilled) or self.aligns("teachers")

    def aligns(self, networks: str) -> bool:
        """Whether the outputs of `networks`, `students` or `teachers`, are aligned."""
        return f"align_{networks}" in self.weights
