"""The results of `benchmarks.claim` as tables in Markdown."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import markdown_table
from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.method import collapse_metrics
from xkd_jax.training.logs.event_files import scalars

UNTRAINED = "untrained"
NETWORKS = ("student", "teacher")
_LAST = 100  # steps over which the information of teachers is averaged
_PARTS = 8  # parts of a run, over each of which the information is averaged


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a network in %: top-1 of the probes and of the SVM, and recall at 1."""

    video: float
    audio: float
    both: float
    retrieval: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """The results of a row of the table with one seed.

    Attributes:
      scores: of each network.
      information: {modality: {step: nats}}: mutual information between clip and teacher output.
    """

    scores: Mapping[str, Scores]
    information: Mapping[Modality, Mapping[int, float]]


_COLUMNS = [field.name for field in dataclasses.fields(Scores)]
Cells = Mapping[tuple[str, int], Cell]  # by row and seed


def networks(row: str) -> tuple[str, ...]:
    """Returns the evaluated networks of a row; untrained ones are equal in all rows, so in one."""
    return (*NETWORKS, UNTRAINED) if row == "xkd" else NETWORKS


def describe(rows: Iterable[str], cells: Cells) -> str:
    """Returns the tables: scores, scores by seed, information during the run, and the gain."""
    found: dict[str, dict[int, Cell]] = collections.defaultdict(dict)
    for (row, seed), cell in sorted(cells.items(), key=lambda item: item[0]):
        found[row][seed] = cell
    of_rows = {row: found[row] for row in rows if row in found}
    by_row = {row: list(seeds.values()) for row, seeds in of_rows.items()}
    parts = [_scores(by_row), _by_seed(of_rows), _course(by_row), _gain(cells)]
    return "\n\n".join(filter(None, parts))


def information(workdir: Path) -> dict[Modality, dict[int, float]]:
    """Returns {modality: {step: nats}} of a run's logged scalars; see `Cell`."""
    logged = scalars(workdir)
    return {
        m: {
            step: collapse_metrics.information(found)[f"collapse/{m}_teacher_information"]
            for step, found in logged.items()
            if f"collapse/{m}_teacher_entropy" in found
        }
        for m in MODALITIES
    }


def at_the_end(by_step: Mapping[int, float]) -> float:
    """Returns the mean over the last steps."""
    return statistics.mean(n for step, n in by_step.items() if step > max(by_step) - _LAST)


def over_the_run(by_step: Mapping[int, float]) -> list[float | None]:
    """Returns the mean over each part of a run; None if nothing was logged."""
    parts: list[list[float]] = [[] for _ in range(_PARTS)]
    for step, nats in by_step.items():
        parts[(step - 1) * _PARTS // max(by_step)].append(nats)
    return [statistics.mean(nats) if nats else None for nats in parts]


def _scores(by_row: Mapping[str, Sequence[Cell]]) -> str:
    """Returns the table of mean and standard deviation over the seeds of each row."""
    rows = []
    groups = [("xkd", UNTRAINED)] if "xkd" in by_row else []
    groups += [(row, network) for row in by_row for network in NETWORKS]
    for row, network in groups:
        scores = [dataclasses.astuple(cell.scores[network]) for cell in by_row[row]]
        cells = [spread(values, 1) for values in zip(*scores, strict=True)]
        cells.append(", ".join(_nats(by_row[row])) if network == "teacher" else "")
        name = UNTRAINED if network == UNTRAINED else row
        rows.append([name, network, len(scores), *cells])
    return markdown_table.text(("pretrained with", "network", "seeds", *_COLUMNS, "nats"), rows)


def _by_seed(of_rows: Mapping[str, Mapping[int, Cell]]) -> str:
    """Returns the table of each seed's students, for rows that have several."""
    rows = []
    for row, cells in of_rows.items():
        scores = [dataclasses.astuple(cell.scores["student"]) for cell in cells.values()]
        columns = [", ".join(f"{n:.1f}" for n in seeds) for seeds in zip(*scores, strict=True)]
        if len(scores) > 1:
            rows.append([row, ", ".join(map(str, cells)), *columns])
    return markdown_table.text(("student, by seed", "seeds", *_COLUMNS), rows)


def _nats(cells: Sequence[Cell]) -> list[str]:
    logged = ([cell.information[m] for cell in cells if cell.information[m]] for m in MODALITIES)
    return [spread([at_the_end(by_step) for by_step in seeds], 2) for seeds in logged if seeds]


def _course(by_row: Mapping[str, Sequence[Cell]]) -> str:
    """Returns the table of the information of audio teachers during the run, mean over seeds."""
    rows = []
    for row, cells in by_row.items():
        courses = [
            over_the_run(cell.information["audio"]) for cell in cells if cell.information["audio"]
        ]
        if courses:
            parts = zip(*courses, strict=True)
            rows.append([row, *(spread([n for n in seeds if n is not None], 2) for seeds in parts)])
    return markdown_table.text(
        ("nats, audio", *(f"{i} / {_PARTS}" for i in range(1, _PARTS + 1))), rows
    )


def _gain(cells: Cells) -> str:
    """Returns the gain of all losses over reconstruction for each seed with both."""
    gains = [
        f"{cells['xkd', seed].scores['student'].video - base.scores['student'].video:.1f}"
        for (row, seed), base in sorted(cells.items(), key=lambda item: item[0])
        if row == "reconstruction" and ("xkd", seed) in cells
    ]
    text = f"All losses over reconstruction, video, by seed: {', '.join(gains)}."
    return text if gains else ""


def spread(values: Sequence[float], digits: int) -> str:
    """Formats mean and standard deviation; one value without deviation, none as ""."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
