"""Writes the page of runs to a file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

import jax

from data_pipelines import terminal
from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.report.clip_sections import DEFAULT, Amounts
from xkd_jax.report.page import page
from xkd_jax.training.result_file import Result

NAME = "report.html"  # in the folder of a run


def write_at_end(run: PurePath, *, replace: bool) -> None:
    """Writes the page of a run that has just ended into its folder; never raises `UserError`.

    A run of several processes prints the command instead, as its network is on all of them.

    Args:
      run: folder of the run.
      replace: whether an existing page is of an earlier step, and is replaced.
    """
    output = str(run / NAME)
    if not replace and storage.exists(output):
        return
    if jax.process_count() > 1:
        command = f"python -m xkd_jax.report {shlex.quote(str(run))} --output={shlex.quote(output)}"
        print_on_main(f"report    {command}")
        return
    try:
        write([run], output)
    except UserError as error:
        terminal.print_error(f"The run has ended, and its report can't be written: {error}")


def write(
    runs: Sequence[PurePath],
    output: str,
    results: Sequence[Result] = (),
    amounts: Amounts = DEFAULT,
) -> None:
    """Writes the page and prints where it is.

    Args:
      runs: folders of pretraining runs.
      output: path or URL of the file.
      results: results of evaluations that are shown, with those that belong to the runs.
      amounts: numbers of clips.

    Raises:
      UserError: a folder is not that of a pretraining run, or the file can't be written.
    """
    content = page(runs, results, amounts).encode()
    try:
        with storage.writer(output) as file:
            file.write(content)
    except OSError as error:
        raise file_error(
            error,
            f"{output} can't be written ({error.strerror}): give another file by --output.",
            writing=True,
        ) from None
    size = f"{len(content) / 2**20:.1f} MiB"
    terminal.print_text(f"report    {terminal.escaped(output)} ({size}): open it in a browser")
