"""Prints results of evaluations as tables like those of the paper.

    python -m xkd_jax.report RESULTS [RESULTS ...]

RESULTS are `result.json` files of evaluations, or folders that contain such files at any depth. The
tables are Markdown, with published numbers beside ours. Published numbers are of base-size networks
(Sarkar & Etemad, AAAI 2024); the pretraining data follows in brackets. Only results of the same
protocol and network have one; the differences of other results are listed below the table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data_pipelines import terminal
from data_pipelines.errors import UserError
from xkd_jax.report import evaluation_results, result_tables


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
        results = evaluation_results.load(parser.parse_args(argv).results)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return 2
    terminal.print_result(f"{result_tables.markdown(results)}\n\nResults read: {len(results)}.")
    terminal.print_next("other protocols and benchmarks: configs/eval, docs/evaluation.md")
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
