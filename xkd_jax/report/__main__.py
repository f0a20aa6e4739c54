"""Prints results of evaluations as tables like those of the paper.

    python -m xkd_jax.report RESULTS [RESULTS ...]

RESULTS are `result.json` files of evaluations, or folders that contain such files at any depth. The
tables are Markdown, with published numbers beside ours. Published numbers are of base-size networks
(Sarkar & Etemad, AAAI 2024); the pretraining data follows in brackets. Only results of the same
protocol and network have one; the differences of other results are listed below the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from data_pipelines import terminal
from data_pipelines.errors import UserError
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.evaluation import Evaluated, Network, Protocol
from xkd_jax.config.pretraining import LossConfig
from xkd_jax.evaluate.result import FILE, also
from xkd_jax.report import published

# What the paper calls linear is an SVM or a linear layer, depending on the benchmark.
_TABLES = {
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
class Result:
    """The content of one result file that tables show.

    Attributes:
      benchmark: this field and those up to `value` are as in the file.
      data: name of the data set; empty if the file has none.
      left_out: number of the data set's files that are missing in its shards.
      output: output of the network that features are from.
      step: step of the checkpoint.
      folds: value of each fold.
      held_out: value of each fold with the cost that was chosen on held-out training records; empty
        without such a choice.
      also: other metrics, as text.
      loss: losses of the pretraining.
      config: config of the evaluation.
    """

    benchmark: str
    protocol: Protocol
    modality: Evaluated
    network: Network
    variant: str
    size: str
    train_fraction: float
    metric: str
    value: float
    data: str
    left_out: int
    output: Literal["encoder", "head"]
    step: int
    folds: tuple[float, ...]
    held_out: tuple[float, ...]
    also: tuple[str, ...]
    loss: LossConfig
    config: dict

    @property
    def table(self) -> str:
        """Key of its table in `_TABLES`."""
        if self.train_fraction < 1:
            return "low_shot"
        return "linear" if self.protocol == "svm" else self.protocol

    @property
    def losses(self) -> str:
        """Losses of the pretraining, as text; empty for an untrained network."""
        if self.network in ("untrained", "log_mel"):
            return ""
        return published.losses(self.loss)


def load(paths: Sequence[str]) -> list[Result]:
    """Reads result files, each one once.

    Args:
      paths: files, or folders that contain them.

    Raises:
      UserError: a folder contains no result file, or a file is not a result.
    """
    files: dict[Path, None] = {}
    for path in map(Path, paths):
        found = sorted(path.rglob(FILE)) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise UserError(f"{path} has no {FILE}: give the workdirs of finished evaluations.")
        files |= dict.fromkeys(file.resolve() for file in found)
    return [_read(file) for file in files]


def _read(file: Path) -> Result:
    try:
        result = _result(json.loads(file.read_text(encoding="utf-8")))
        published.differences(result.config, result.table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        fault = lacks + str(error).rstrip(".")
        raise UserError(
            f"{file} is not a result of an evaluation ({fault}): leave it out."
        ) from None
    return result


def _result(content: dict[str, Any]) -> Result:
    names = (
        "benchmark", "protocol", "modality", "network", "variant", "size", "train_fraction",
        "metric", "value", "config",
    )  # fmt: skip
    folds, data = content["per_fold"], content.get("data", {})
    held_out = [fold.get("top1_held_out_cost") for fold in folds]
    values = {
        **{name: content[name] for name in names},
        "data": data.get("name", ""),
        "left_out": sum(data.get("left_out", {}).values()),
        "output": content["config"]["output"],
        "step": content["checkpoint"]["step"],
        "folds": [fold["value"] for fold in folds],
        "held_out": () if None in held_out else held_out,
        "also": also(folds, digits=1) if folds else (),
        "loss": content["pretraining"]["loss"],
    }
    result = build(Result, values)
    if not result.folds or not all(
        map(math.isfinite, (result.value, *result.folds, *result.held_out))
    ):
        raise ValueError(f"its value is {result.value} over {len(result.folds)} folds")
    return result


def tables(results: Sequence[Result]) -> str:
    """Returns Markdown tables; each result is one line of one table."""
    texts = []
    for table, title in _TABLES.items():
        rows = sorted((r for r in results if r.table == table), key=_order)
        if rows:
            texts.append(_table(title, rows))
    return "\n\n".join(texts)


def _order(result: Result) -> tuple[Any, ...]:
    return (
        result.benchmark, result.data, result.modality, result.train_fraction, result.variant,
        result.losses, result.network, result.protocol, result.output, result.size, result.step,
    )  # fmt: skip


def _table(title: str, results: Sequence[Result]) -> str:
    notes: dict[str, int] = {}  # {note below the table: its number}

    def marked(text: str, note: str) -> str:
        number = notes.setdefault(note, len(notes) + 1) if note else ""
        return " ".join(filter(None, (text, note and f"[{number}]")))

    lines = [table_row(_COLUMNS), "|" + "---|" * len(_COLUMNS)]
    for result in results:
        number, otherwise = _published(result)
        lines.append(
            table_row(
                (
                    *_described(result),
                    marked(_measured(result), _lacking(result)),
                    ", ".join(f"{v:.1f}" for v in result.folds) if len(result.folds) > 1 else "",
                    marked(number, otherwise),
                )
            )
        )
    below = "\n".join(
        f"[{number}] {terminal.escaped(note)}\\" for note, number in notes.items()
    ).rstrip("\\")
    return "\n".join([f"## {title}", "", *lines, *(["", below] if below else [])])


def table_row(cells: Sequence[str]) -> str:
    """One row of a Markdown table; what a terminal would obey is escaped."""
    return f"| {' | '.join(map(terminal.escaped, cells))} |"


def _described(result: Result) -> tuple[str, ...]:
    fraction = f" ({100 * result.train_fraction:g} %)" if result.train_fraction < 1 else ""
    network = f"{result.variant} {result.network}, {result.size}"
    return (
        result.benchmark + fraction,
        result.data,
        result.protocol,
        result.modality,
        result.losses,
        network + (", head" if result.output == "head" else ""),
        str(result.step),
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
        result.benchmark, result.modality, result.table, result.variant, result.losses
    )
    otherwise = published.differences(result.config, result.table)
    if numbers and result.network != "student":
        otherwise.append(f"the network is the {result.network}")
    if numbers and result.size != "base":
        otherwise.append(f"its size is {result.size}")
    if not otherwise:
        return numbers, ""
    standard = "the published protocol and network" if numbers else "the file in configs/eval"
    return "", f"Not as in {standard}: {', '.join(otherwise)}."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
      argv: arguments of the command line; None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m xkd_jax.report", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("results", nargs="+", help="result files, or folders that contain them")
    try:
        results = load(parser.parse_args(argv).results)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return 2
    terminal.print_result(f"{tables(results)}\n\nResults read: {len(results)}.")
    terminal.print_next("other protocols and benchmarks: configs/eval, docs/evaluation.md")
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
