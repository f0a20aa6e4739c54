"""Charts of a run's scalars."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from xkd_jax.report.charts import Curve, line_chart
from xkd_jax.report.elements import Html
from xkd_jax.report.pretraining_run import PretrainingRun

_References = Mapping[str, float]


def _none(run: PretrainingRun, classes: int) -> _References:
    return {}


class _Chart(NamedTuple):
    """A chart of scalars.

    title: of the chart.
    tags: pattern of whole tags; its group names the curve.
    references: (run, number of classes or 0) -> {name: value} of horizontal lines.
    """

    title: str
    tags: str
    references: Callable[[PretrainingRun, int], _References] = _none


def _uniform(run: PretrainingRun, classes: int) -> _References:
    return {"uniform": math.log(run.config.model.head.outputs)}


def _chance(run: PretrainingRun, classes: int) -> _References:
    return {"chance": 100 / classes} if classes else {}


CHARTS = (
    _Chart("Loss", r"(loss)"),
    _Chart(
        "Reconstruction error", r"loss/reconstruct_(\w+)", lambda *_: {"predicting the mean": 1.0}
    ),
    _Chart("Distillation, nats", r"loss/distill_(\w+)"),
    _Chart("Alignment", r"loss/align_(\w+)"),
    _Chart(
        "Information in a teacher's output, nats",
        r"collapse/(\w+)_teacher_information",
        lambda *_: {"collapse": 0.0},
    ),
    _Chart("Entropy of a clip's target, nats", r"collapse/(\w+)_teacher_entropy"),
    _Chart("Entropy of the mean target, nats", r"collapse/(\w+)_teacher_mean_entropy", _uniform),
    _Chart("Nearest neighbors, top-1 %", r"knn/(\w+)", _chance),
    _Chart("Spread of the student's features", r"collapse/(\w+)_feature_spread"),
    _Chart("Norm of the gradients", r"(gradient_norm)"),
    _Chart("Learning rate", r"schedule/(learning_rate)"),
    _Chart("Shares of the run's wall time", r"goodput/(\w+)"),
    _Chart("Clips per second", r"speed/(clips_per_second)"),
)


def curves(runs: Sequence[PretrainingRun], classes: Mapping[str, int]) -> list[Html]:
    """Returns charts of the scalars that the runs have.

    A single run has one chart for all curves of a kind; several runs share one for each curve.

    Args:
      runs: the runs, of different names.
      classes: {name of a run: number of classes}; runs may be missing.
    """
    found = []
    for chart in CHARTS:
        named = {run.name: _series(run, chart.tags) for run in runs}
        parts = list(dict.fromkeys(part for series in named.values() for part in series))
        references = _references(chart, runs, classes)
        if len(runs) == 1 and parts:
            series = named[runs[0].name]
            lines = [Curve(_words(p), *series[p], n) for n, p in enumerate(parts)]
            found.append(line_chart(chart.title, lines, references))
        elif parts:
            for part in parts:
                lines = [
                    Curve(name, *series[part], n)
                    for n, (name, series) in enumerate(named.items())
                    if part in series
                ]
                title = f"{chart.title}: {_words(part)}" if len(parts) > 1 else chart.title
                found.append(line_chart(title, lines, references))
    return found


def _references(
    chart: _Chart, runs: Sequence[PretrainingRun], classes: Mapping[str, int]
) -> dict[str, float]:
    """Returns the horizontal lines of a chart; those that differ are named after their run."""
    of_runs = {run.name: chart.references(run, classes.get(run.name, 0)) for run in runs}
    names = dict.fromkeys(name for lines in of_runs.values() for name in lines)
    found: dict[str, float] = {}
    for name in names:
        values = {run: lines[name] for run, lines in of_runs.items() if name in lines}
        if len(set(values.values())) == 1:
            found[name] = next(iter(values.values()))
        else:
            found |= {f"{name}, {run}": value for run, value in values.items()}
    return found


def _series(run: PretrainingRun, pattern: str) -> dict[str, tuple[list[int], list[float]]]:
    """Returns {part of the tag: (steps, values)} of finite scalars whose tag is of the pattern."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for step in sorted(run.scalars):
        for tag, value in run.scalars[step].items():
            matched = re.fullmatch(pattern, tag)
            if matched and math.isfinite(value):
                steps, values = found.setdefault(matched[1], ([], []))
                steps.append(step)
                values.append(value)
    return found


def _words(part: str) -> str:
    return part.replace("_", " ")
