"""Compares this implementation with numbers of the authors' code."""

from __future__ import annotations

import sys

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from xkd_jax.parity.golden_file import GoldenFile
from xkd_jax.parity.kinds import kind_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
      arguments: of the command line; None: those of the process.
    """
    parser = command_parser("xkd_jax.parity", __doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="golden case, .npz or .json")
    passed = True
    try:
        for path in parser.parse_args(arguments).files:
            passed &= _compare(path)
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return 2
    return 0 if passed else 1


def _compare(path: str) -> bool:
    """Prints the comparisons of one file and returns whether all are within their tolerances."""
    file = GoldenFile.read(path)
    report = kind_of(file).compare(file)
    terminal.print_result(terminal.escaped(f"{path}: {report.title}"))
    for row in report.comparisons:
        compared = (
            f"  {'ok  ' if row.passed else 'FAIL'} {row.group:22} {row.error:8.2g}"
            f" (allowed {row.allowed:g}, {row.count} compared) at {row.place}"
        )
        terminal.print_result(terminal.escaped(compared))
    return all(row.passed for row in report.comparisons)


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
