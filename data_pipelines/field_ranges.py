"""Annotations of a config's fields: `Annotated[float, at_least(0), Doc("seconds between lines")]`.

`xkd_jax.config.dataclass_schema` refuses values outside the range and returns the meanings.
"""

from __future__ import annotations

import dataclasses
import math

_COUNTS = {2: "two", 3: "three"}


@dataclasses.dataclass(frozen=True)
class Doc:
    """Meaning of a field, with its unit: a short phrase without a period at the end."""

    text: str


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`.

    For a tuple, every value must be in the range; a tuple may not be empty.

    above: exclude `low` itself.
    below: exclude `high` itself.
    ascending: each value of a tuple must be at least the one before it.
    noun: name of a tuple's values in messages; by default, their number and "values".
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    ascending: bool = False
    noun: str = ""

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under and math.isfinite(value)

    def holds(self, values: tuple[float, ...]) -> bool:
        """Whether all values of a tuple are in the range, and in order."""
        ordered = not self.ascending or list(values) == sorted(values)
        return bool(values) and all(value in self for value in values) and ordered

    def words(self) -> str:
        """Returns the permitted numbers, as text to follow "give"."""
        low, high = self.low, self.high
        if math.isinf(high):
            return f"{'more than' if self.above else 'at least'} {low}"
        if self.above:
            return f"more than {low}" + (
                f", less than {high}" * self.below or f" and at most {high}"
            )
        return f"{low} to {'below ' if self.below else ''}{high}"

    def words_of_tuple(self, count: int | None) -> str:
        """Returns the permitted tuples of `count` values (None: any), as text after "give"."""
        number = "one or more" if count is None else _COUNTS.get(count, str(count))
        text = self.noun or f"{number} values"
        text += f" {'above' if self.above else 'of at least'} {self.low}"
        if math.isfinite(self.high):
            text += f" {'below' if self.below else 'of up to'} {self.high}"
        return text + (", the smaller one first" if self.ascending else "")


def at_least(low: float) -> Range:
    """Numbers of at least `low`."""
    return Range(low)


def above(low: float, *, noun: str = "") -> Range:
    """Numbers larger than `low`."""
    return Range(low, above=True, noun=noun)


def below(high: float) -> Range:
    """Numbers of at least 0 and less than `high`."""
    return Range(0, high, below=True)


def interval(high: float = math.inf) -> Range:
    """For a tuple: two numbers above 0 and up to `high`, the smaller one first."""
    return Range(0, high, above=True, ascending=True)
