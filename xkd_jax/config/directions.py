"""Directed pairs of modalities: a teacher's and the student's that learns from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from data_pipelines.loader_config import Modality


class Direction(NamedTuple):
    """A direction of distillation.

    teacher: the modality whose teacher gives the targets.
    student: the modality whose student learns them.
    """

    teacher: Modality
    student: Modality

    @property
    def name(self) -> str:
        """As in the names of losses and centers: `video_to_audio`."""
        return f"{self.teacher}_to_{self.student}"


def directions(modalities: Iterable[Modality]) -> tuple[Direction, ...]:
    """All ordered pairs of different modalities, by teacher first."""
    return tuple(Direction(*pair) for pair in itertools.permutations(modalities, 2))
