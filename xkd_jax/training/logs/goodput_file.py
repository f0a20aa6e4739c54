"""The file of a run's goodput, which adds up all starts of the program."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import PurePath

from data_pipelines import json_file, resumable_end
from data_pipelines.errors import StoppedError, UserError
from xkd_jax.parallel.processes import is_main_process, print_on_main, run_on_all, write_once
from xkd_jax.training.logs.goodput import CAUSES, Accounts, Goodput
from xkd_jax.training.logs.metric_sinks import Sink, WriteWarning

FILE = "goodput.json"
MOST_STOPS = 3  # in a row, of starts that begin at the same step


def read(workdir: PurePath) -> Accounts | None:
    """Returns the accounts of a run, or None without such a file.

    Args:
      workdir: folder or URL of the run.

    Raises:
      UserError: the file can't be used.
    """
    path = workdir / FILE
    try:
        found = json_file.build(Accounts, json_file.read(str(path)))
    except FileNotFoundError:
        return None
    except json_file.ContentError as error:
        raise UserError(f"{path} can't be used ({error}): remove it.") from None
    if unknown := found.seconds.keys() - set(CAUSES):
        raise UserError(f"{path} can't be used ({min(unknown)} is unknown): remove it.")
    return found


class GoodputFile(Sink):
    """Writes the accounts with every line of the run, so that a killed run has them."""

    def __init__(self, workdir: PurePath, goodput: Goodput):
        """Writes nothing yet.

        Args:
          workdir: folder or URL of the run.
          goodput: accounts of this start and the earlier ones.
        """
        self._path, self._goodput = workdir / FILE, goodput
        self._warning = WriteWarning(self._path, "accounts of the run's time")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the accounts up to now; `step` and `scalars` are not used."""
        self.save()

    def save(self, stops: int = 0) -> Accounts:
        """Writes the accounts up to now, on the main process, and returns them.

        Args:
          stops: see `Accounts`.
        """
        accounts = dataclasses.replace(self._goodput.accounts(), stops=stops)
        with self._warning.errors():
            write_once(self._path, dataclasses.asdict(accounts))
        return accounts


@contextlib.contextmanager
def kept(goodput: Goodput, workdir: PurePath, start: int) -> Iterator[None]:
    """Adds the accounts of earlier starts to `goodput`, and writes and prints them at the end.

    If the file can't be used, a note is printed, and the accounts begin with this start.

    Args:
      goodput: accounts of this start.
      workdir: folder or URL of the run.
      start: number of steps made before.

    Raises:
      UserError: the last starts began at this step too, and each was stopped on request.
    """
    before = None
    try:
        before = read(workdir) if is_main_process() else None
    except UserError as error:
        print_on_main(f"note      goodput counts from this start: {str(error).rstrip('.')}")
    else:
        if before is not None:
            goodput.resume(before)
    stops = before.stops if before is not None and start <= before.begun else 0
    file = GoodputFile(workdir, goodput)
    run_on_all(lambda: _refuse_standstill(file, workdir, start, stops))
    try:
        with resumable_end.cleaned_up_by(lambda: _end(file.save(stops + 1))):
            yield
    except StoppedError:
        _end(file.save(stops + 1))
        raise
    _end(file.save())


def _refuse_standstill(file: GoodputFile, workdir: PurePath, start: int, stops: int) -> None:
    if stops < MOST_STOPS:
        return
    file.save()  # so that the same command tries again
    raise UserError(
        f"The last {stops} starts of the run in {workdir} were stopped on request, and the next one"
        f" begins at step {start:,} as they did: find out what stops them before a step is saved,"
        " such as a time limit, and run the same command again."
    )


def _end(accounts: Accounts) -> None:
    print_on_main(f"goodput   {accounts.described()}")
