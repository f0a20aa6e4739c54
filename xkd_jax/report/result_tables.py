"""Tables of results like those of the paper, with the published numbers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from data_pipelines import terminal
from xkd_jax.report import published
from xkd_jax.training.result_file import Result

# What the paper calls linear is an SVM or a linear layer, depending on the benchmark.
TITLES = {
    "linear": "Linear evaluation",
    "finetune": "Finetuning",
    "attentive": "Attentive probe",
    "knn": "Nearest neighbors",
    "retrieval": "Retrieval across modalities",
    "low_shot": "Few labels",
}
_COLUMNS = (
    "benchmark", "data", "protocol", "modality", "losses", "network", "step", "ours", "folds",
    "published",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
      title: of the table.
      columns: headings.
      rows: cells of each result.
      chances: values of a random guess, as text, of each row; not in the Markdown.
      notes: below the table; note n is marked `[n]` in cells, from 1.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    chances: Sequence[str]
    notes: Sequence[str]

    def markdown(self) -> str:
        """Returns the table as Markdown."""
        lines = [terminal.table_row(self.columns), "|" + "---|" * len(self.columns)]
        lines += map(terminal.table_row, self.rows)
        below = "\\\n".join(
            f"[{number}] {terminal.escaped(note)}" for number, note in enumerate(self.notes, 1)
        )
        return "\n".join([f"## {self.title}", "", *lines, *(["", below] if below else [])])


def tables(results: Sequence[Result]) -> list[Table]:
    """Returns tables; each result is one row of one table."""
    found = []
    for table, title in TITLES.items():
        rows = sorted((r for r in results if _table_of(r) == table), key=_order)
        if rows:
            found.append(_table(title, rows))
    return found


def markdown(results: Sequence[Result]) -> str:
    """Returns the tables of results as Markdown."""
    return "\n\n".join(table.markdown() for table in tables(results))


def _table_of(result: Result) -> str:
    """Returns the key of its table in `TITLES`."""
    if result.train_fraction < 1:
        return "low_shot"
    return "linear" if result.protocol == "svm" else result.protocol


def _losses(result: Result) -> str:
    """Returns the losses of the pretraining, as text; empty for an untrained network."""
    if result.step is None or result.network in ("untrained", "log_mel"):
        return ""
    return published.losses(result.loss)


def _order(result: Result) -> tuple[Any, ...]:
    return (
        result.benchmark, result.data, result.modality, result.train_fraction, result.variant,
        _losses(result), result.network, result.protocol, result.output, result.size,
        result.step or 0,
    )  # fmt: skip


def _table(title: str, results: Sequence[Result]) -> Table:
    notes: dict[str, int] = {}  # {note below the table: its number}

    def marked(text: str, note: str) -> str:
        number = notes.setdefault(note, len(notes) + 1) if note else ""
        return " ".join(filter(None, (text, note and f"[{number}]")))

    rows = []
    for result in results:
        number, otherwise = _published(result)
        rows.append(
            (
                *_described(result),
                marked(_measured(result), _lacking(result)),
                ", ".join(f"{v:.1f}" for v in result.folds) if len(result.folds) > 1 else "",
                marked(number, otherwise),
            )
        )
    chances = ["" if r.chance is None else f"{r.chance:.1f}" for r in results]
    return Table(title, _COLUMNS, rows, chances, tuple(notes))


def _described(result: Result) -> tuple[str, ...]:
    fraction = f" ({100 * result.train_fraction:g} %)" if result.train_fraction < 1 else ""
    network = f"{result.variant} {result.network}".rstrip() + f", {result.size}"
    return (
        result.benchmark + fraction,
        result.data,
        result.protocol,
        result.modality,
        _losses(result),
        network + (", head" if result.output == "head" else ""),
        "" if result.step is None else str(result.step),
    )


def _measured(result: Result) -> str:
    more = result.also
    if result.held_out:
        more = (f"{statistics.fmean(result.held_out):.1f} with the held-out cost", *more)
    return f"{result.value:.1f} {result.metric}" + (f" ({'; '.join(more)})" if more else "")


def _lacking(result: Result) -> str:
    were = "was" if result.left_out == 1 else "were"
    files = terminal.count(result.left_out, "file")
    return f"{files} of the data set {were} left out." if result.left_out else ""


def _published(result: Result) -> tuple[str, str]:
    """Returns the published numbers of a result, or an empty text, and the note on differences."""
    numbers = published.numbers(
        result.benchmark, result.modality, _table_of(result), result.variant, _losses(result)
    )
    otherwise = published.differences(result.config, _table_of(result))
    if numbers and result.network != "student":
        otherwise.append(f"the network is the {result.network}")
    if numbers and result.size != "base":
        otherwise.append(f"its size is {result.size}")
    if not otherwise:
        return numbers, ""
    standard = "the published protocol and network" if numbers else "the file in configs/eval"
    return "", f"Not as in {standard}: {', '.join(otherwise)}."
