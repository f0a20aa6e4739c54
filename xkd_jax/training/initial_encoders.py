"""Encoders that a run starts from in place of random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from xkd_jax.config.architecture import Architecture
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.networks.tree import Tree


@dataclasses.dataclass(frozen=True)
class InitialEncoders:
    """Parameters of the student's encoders before the first step.

    Attributes:
      values: part of the tree `encoders` of `Student`, float32; an array with fewer rows than the
        student's replaces its last rows.
      record: source, format, license and digest of the weights, for the run's record.
    """

    values: Tree
    record: dict[str, str]

    def into(self, state: TrainState, architecture: Architecture) -> TrainState:
        """Returns a state with these encoders; teachers are copies of students.

        Args:
          state: before the first step.
          architecture: of the networks.
        """

        def replaced(student: Tree, values: Tree) -> tuple[Tree, Tree]:
            student = {**student, "encoders": _overlaid(student["encoders"], values)}
            teacher = teacher_counterpart(student, architecture)
            return student, jax.tree.map(jnp.array, teacher)

        placed = jax.tree.map(lambda leaf: leaf.sharding, (state.student, state.teacher))
        student, teacher = jax.jit(replaced, out_shardings=placed)(state.student, self.values)
        return state.replace(student=student, teacher=teacher)


Read = Callable[[], InitialEncoders]


def _overlaid(tree: Any, part: Any) -> Any:
    """Returns a tree of nested dictionaries with the leaves of `part` in place of its own."""
    if not isinstance(part, Mapping):
        return jnp.concatenate([tree[: len(tree) - len(part)], part])
    return {name: _overlaid(value, part[name]) if name in part else value
            for name, value in tree.items()}  # fmt: skip
