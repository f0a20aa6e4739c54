"""Errors of one group of numbers against its tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The largest error of one group, where it is, and how large it may be."""

    group: str
    error: float
    allowed: float
    place: str
    count: int

    @property
    def passed(self) -> bool:
        """Whether the error is a number inside the tolerance."""
        return self.error <= self.allowed


@dataclasses.dataclass(frozen=True)
class Report:
    """What a file holds, in words, and the comparisons of its groups."""

    title: str
    comparisons: list[Comparison]


def worst(group: str, allowed: float, errors: Mapping[str, float]) -> Comparison:
    """Returns the largest of the errors, which are by place.

    Args:
      group: name of what is compared.
      allowed: the tolerance.
      errors: {place: error}.

    Raises:
      UserError: there is none.
    """
    if not errors:
        raise UserError(f"The case has nothing to compare in its group {group!r}.")
    # a comparison that is not a number is the worst there can be
    place = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    return Comparison(group, errors[place], allowed, place, len(errors))


def largest_error(found: Any, expected: Any) -> float:
    """Largest absolute difference of `found` from `expected`; infinite between different shapes."""
    return _reduced(np.max, found, expected)


def mean_error(found: Any, expected: Any) -> float:
    """Mean absolute difference of `found` from `expected`; infinite between different shapes."""
    return _reduced(np.mean, found, expected)


def _reduced(reduce: Any, found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    return float(reduce(np.abs(found - expected))) if found.size else 0.0
