"""Directions of distillation: pairs of the teacher's and the student's modality."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from data_pipelines.loader_config import Modality


class Direction(NamedTuple):
    """A direction of distillation.

    teacher: modality of the teacher that computes the targets.
    student: modality of the student that is trained on them.
    """

    teacher: Modality
    student: Modality

    @property
    def name(self) -> str:
        """Name in losses and centers, such as `video_to_audio`."""
        return f"{self.teacher}_to_{self.student}"


def directions(modalities: Iterable[Modality]) -> tuple[Direction, ...]:
    """Returns all ordered pairs of different modalities, sorted by teacher."""
    return tuple(Direction(*pair) for pair in itertools.permutations(modalities, 2))
