"""Comparison of a group of numbers: its largest error, and the tolerance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The largest error of one group.

    Attributes:
      group: name of the group.
      error: the largest error.
      allowed: the tolerance.
      place: name of the array with the largest error.
      count: number of arrays that were compared.
    """

    group: str
    error: float
    allowed: float
    place: str
    count: int

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.allowed


@dataclasses.dataclass(frozen=True)
class Report:
    """A description of a file's content, and the comparisons of its groups."""

    title: str
    comparisons: list[Comparison]


def worst(group: str, allowed: float, errors: Mapping[str, float]) -> Comparison:
    """Returns the comparison with the largest of several errors.

    Args:
      group: name of the group.
      allowed: the tolerance.
      errors: {place: error}; NaN counts as infinite.

    Raises:
      UserError: there is no error.
    """
    if not errors:
        raise UserError(
            f"The case has nothing to compare in its group {group!r}: give a complete file."
        )
    place = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    return Comparison(group, errors[place], allowed, place, len(errors))


def largest_error(found: Any, expected: Any) -> float:
    """Largest absolute difference of two arrays; infinite for different shapes.

    Args:
      found: array of numbers, any shape and dtype.
      expected: the same.
    """
    return _reduced(np.max, found, expected)


def mean_error(found: Any, expected: Any) -> float:
    """Mean absolute difference of two arrays; infinite for different shapes.

    Args:
      found: array of numbers, any shape and dtype.
      expected: the same.
    """
    return _reduced(np.mean, found, expected)


def relative_errors(expected: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Returns {name: largest absolute difference / largest absolute expected value}.

    Args:
      expected: arrays by name.
      found: the same; the error of a missing array, or of another shape, is infinite.
    """
    errors = {}
    for name, value in expected.items():
        value = np.asarray(value, np.float64)
        if name not in found or np.shape(found[name]) != value.shape:
            errors[name] = np.inf
            continue
        difference = np.abs(np.asarray(found[name], np.float64) - value).max()
        errors[name] = float(difference / max(np.abs(value).max(), np.finfo(np.float64).tiny))
    return errors


def _reduced(reduce: Any, found: Any, expected: Any) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return float("inf")
    return float(reduce(np.abs(found - expected))) if found.size else 0.0
