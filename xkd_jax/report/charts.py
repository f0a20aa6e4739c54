"""Charts as SVG inside the page: curves over steps, and points in a plane."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xkd_jax.report.elements import Html, element

COLORS = 10  # `--series-0` to `--series-9` of the page's style
_GRAY = 7  # the gray one of them
_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 390, 10, 195
_MOST_POINTS = 240  # of a curve; more are averaged in bins
_PLANE = 400


class Curve(NamedTuple):
    """One line of a chart.

    Attributes:
      name: in the legend.
      steps: int [points], rising.
      values: float [points]; those that are not finite are left out.
      color: number of the color.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    color: int


class _Scale(NamedTuple):
    """Maps values between `least` and `most` to pixels between `start` and `end`."""

    least: float
    most: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        part = (value - self.least) / max(self.most - self.least, 1e-12)
        return round(self.start + part * (self.end - self.start), 1)


def line_chart(
    title: str, curves: Sequence[Curve], references: Mapping[str, float] | None = None
) -> Html:
    """Returns a figure of curves over steps; its text has the first and last value of each.

    Args:
      title: of the chart.
      curves: at least one, with at least one finite value.
      references: {name: value} of horizontal lines.
    """
    references = references or {}
    curves = [_thinned(curve) for curve in curves]
    values = [v for c in curves for v in c.values] + list(references.values())
    ticks = nice_ticks(min(values), max(values))
    steps = [s for c in curves for s in c.steps]
    across = _Scale(min(steps), max(steps), _LEFT, _RIGHT)
    up = _Scale(min(*ticks, *values), max(*ticks, *values), _BOTTOM, _TOP)
    ends = "; ".join(
        f"{c.name}: {_number(c.values[0])} at step {c.steps[0]:,},"
        f" {_number(c.values[-1])} at step {c.steps[-1]:,}"
        for c in curves
    )
    picture = element(
        "svg",
        element("title", f"{title}. {ends}."),
        _axes(ticks, up, across),
        [_reference(name, value, up) for name, value in references.items()],
        [_curve(curve, across, up) for curve in curves],
        element("line", class_="axis cursor", y1=_TOP, y2=_BOTTOM, visibility="hidden"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", tabindex="0",
    )  # fmt: skip
    shown = [{"name": c.name, "x": c.steps, "y": c.values} for c in curves]
    return element(
        "figure",
        element("h3", title),
        picture,
        _legend([(c.name, c.color, "") for c in curves if c.name.lower() != title.lower()]),
        element("figcaption", element("output", "", aria_live="polite"), "\u00a0"),
        class_="chart card",
        data_curves=json.dumps(shown),
        data_axis=json.dumps([across.least, across.most, _LEFT, _RIGHT, _WIDTH]),
    )


def _thinned(curve: Curve) -> Curve:
    """Returns finite values, as means of bins if there are many."""
    steps, values = np.asarray(curve.steps), np.asarray(curve.values, float)
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    bins = np.array_split(np.arange(len(steps)), min(len(steps), _MOST_POINTS))
    return curve._replace(
        steps=[int(steps[b[-1]]) for b in bins],
        values=[float(f"{values[b].mean():.5g}") for b in bins],
    )


def nice_ticks(least: float, most: float) -> list[float]:
    """Returns 2 to 7 round numbers in even distances that span from `least` to `most`."""
    if most - least < 1e-9 * max(abs(most), 1e-9):
        least, most = least - abs(least) / 2 - 0.5, most + abs(most) / 2 + 0.5
    rough = (most - least) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def _axes(ticks: Sequence[float], up: _Scale, across: _Scale) -> list[Html]:
    lines = [
        element("line", class_="axis", x1=_LEFT, x2=_RIGHT, y1=up(tick), y2=up(tick))
        for tick in ticks
    ]
    texts = [
        element("text", _number(tick), x=_LEFT - 5, y=up(tick) + 4, text_anchor="end")
        for tick in ticks
    ]
    ends = sorted({across.least, across.most})
    anchors = ["start", "end"] if len(ends) > 1 else ["middle"]
    below = [
        element("text", f"step {step:,.0f}", x=across(step), y=_BOTTOM + 18, text_anchor=anchor)
        for step, anchor in zip(ends, anchors, strict=True)
    ]
    return [*lines, *texts, *below]


def _reference(name: str, value: float, up: _Scale) -> list[Html]:
    y = up(value)
    above = y > _TOP + 16
    return [
        element("line", class_="reference", x1=_LEFT, x2=_RIGHT, y1=y, y2=y),
        element("text", name, x=_RIGHT, y=y - 4 if above else y + 12, text_anchor="end"),
    ]


def _curve(curve: Curve, across: _Scale, up: _Scale) -> Html:
    points = " ".join(
        f"{across(s)},{up(v)}" for s, v in zip(curve.steps, curve.values, strict=True)
    )
    color = f"--color: var(--series-{curve.color % COLORS})"
    if len(curve.steps) == 1:
        x, y = points.split(",")
        return element("circle", class_="point", cx=x, cy=y, r=4, style=color)
    return element("polyline", class_="curve", points=points, style=color)


def _legend(entries: Sequence[tuple[str, int, str]]) -> Html | None:
    """Returns the names of (name, color, class of the mark); None without any."""
    if not entries:
        return None
    return element(
        "ul",
        [
            element(
                "li",
                element("span", class_=kind, style=f"--color: var(--series-{color % COLORS})"),
                name,
            )
            for name, color, kind in entries
        ],
        class_="legend",
    )


def scatter(
    title: str, points: np.ndarray, groups: np.ndarray, names: Sequence[str], caption: str
) -> Html:
    """Returns a figure of points in a plane, each group with its name where it is densest.

    Args:
      title: of the figure.
      points: float [n, 2].
      groups: int [n], numbers of names; -1: none.
      names: of the groups; those beyond the colors share one.
      caption: below the figure.
    """
    low, high = points.min(0), points.max(0)
    span = max(float((high - low).max()), 1e-12)
    placed = 12 + (points - (low + high) / 2 + span / 2) / span * (_PLANE - 24)
    present = [int(g) for g in np.unique(groups) if g >= 0]
    color = {g: min(i, COLORS - 1) for i, g in enumerate(present)} | {-1: _GRAY}
    circles = [
        element(
            "circle",
            element("title", names[g] if g >= 0 else "no class"),
            class_="point", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3.5",
            style=f"--color: var(--series-{color[int(g)]})",
        )
        for (x, y), g in zip(placed, groups, strict=True)
    ]  # fmt: skip
    texts = []
    if len(present) <= COLORS:
        for g in present:
            x, y = _densest(placed[groups == g])
            texts.append(
                element("text", names[g], class_="name", x=f"{x:.1f}", y=f"{y:.1f}",
                        text_anchor="middle")
            )  # fmt: skip
    picture = element(
        "svg", element("title", f"{title}: {len(points)} clips. {caption}"), circles, texts,
        viewBox=f"0 0 {_PLANE} {_PLANE}", role="img",
    )  # fmt: skip
    legend = [(names[g], color[g], "dot") for g in present[:COLORS]]
    more = f"; {len(present) - COLORS} more classes" if len(present) > COLORS else ""
    return element(
        "figure",
        element("h3", title),
        picture,
        _legend(legend),
        element("figcaption", f"{caption}{more}"),
        class_="chart card",
    )


def _densest(points: np.ndarray) -> np.ndarray:
    """Returns the point, float [2], with the nearest few neighbors."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return points[np.sort(distances, axis=1)[:, :6].mean(1).argmin()]


def _number(value: float) -> str:
    """Returns a number as briefly as three digits allow."""
    if 0 < abs(value) < 0.01:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
