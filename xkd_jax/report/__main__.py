"""Shows results: as tables like those of the paper, and runs as a page to look at and listen to.

    python -m xkd_jax.report RESULTS [RESULTS ...]
    python -m xkd_jax.report RUN [RUN ...] --output=report.html

RESULTS are `result.json` files of evaluations, or folders that contain such files at any depth. The
tables are Markdown, with published numbers beside ours. Published numbers are of base-size networks
(Sarkar & Etemad, AAAI 2024); the pretraining data follows in brackets. Only results of the same
protocol and network have one; the differences of other results are listed below the table.

RUN is the folder of a pretraining run, or a folder of such folders. The page is one file that needs
no network: curves, clips with players, reconstructions, attention, nearest neighbors, features in
two dimensions, results, settings. Evaluations in folders beside a run whose names begin with the
run's name are shown with it. What a run lacks is listed on the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.report import evaluation_results, result_tables
from xkd_jax.training.result_file import Result

_MOST_CLIPS = 5000


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
      argv: arguments of the command line; None: those of the process.
    """
    args = _parser().parse_args(argv)
    try:
        if args.output:
            _write(args)
            return 0
        results = evaluation_results.load(args.results)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return error.status
    _print_tables(results)
    terminal.print_next("other protocols and benchmarks: configs/eval, docs/evaluation.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("xkd_jax.report", __doc__)
    add = parser.add_argument
    add("results", nargs="+", help="result files, folders that contain them, or runs")
    add("--output", default="", help="HTML file to write; runs are shown on it")
    add("--clips", type=int, default=300, help="clips of each split that the page encodes")
    return parser


def _print_tables(results: Sequence[Result]) -> None:
    terminal.print_result(f"{result_tables.markdown(results)}\n\nResults read: {len(results)}.")


def _write(args: argparse.Namespace) -> None:
    # imported here because JAX takes seconds to start
    from xkd_jax.report import page_file, pretraining_run
    from xkd_jax.report.clip_sections import Amounts

    if not 1 <= args.clips <= _MOST_CLIPS:
        raise UserError(f"--clips={args.clips}: give 1 to {_MOST_CLIPS}.")
    runs, others = pretraining_run.runs_in([storage.location(path) for path in args.results])
    if not runs:
        raise UserError(
            f"{args.results[0]} is not the folder of a pretraining run: give one, or leave out"
            " --output for tables of results."
        )
    results = evaluation_results.load([str(path) for path in others]) if others else []
    if results:
        _print_tables(results)
    page_file.write(runs, args.output, results, Amounts(encoded=args.clips))


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
