"""The processes of a run: how they find each other, and which of them speaks."""

from __future__ import annotations

import contextlib
import json
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines import durable, terminal
from data_pipelines.activity import Activity
from data_pipelines.errors import (
    LostProcessError,
    StoppedError,
    UnreachableError,
    UserError,
    file_error,
)

_T = TypeVar("_T")
# What collectives say when the process at the other end of a connection is gone.
BROKEN_CONNECTION = re.compile(
    r"gloo|connection|unavailable|nccl|barrier|heartbeat|coordination", re.IGNORECASE
)
# Modules whose functions wait for the other processes of a run.
_COLLECTIVES = re.compile(r"jax\.experimental\.multihost_utils|orbax\.checkpoint\..*multihost.*")


def start(coordinator: str, count: int, index: int) -> None:
    """Joins the other processes of the run, if there are any.

    Without a coordinator JAX looks for a cluster that it knows (Cloud TPU slices, SLURM,
    Kubernetes, Open MPI), and where it finds none, this process is the run. Must come before
    anything that asks JAX for devices.

    Args:
      coordinator: HOST:PORT on which process 0 listens, or an empty string.
      count: processes of the run; 0 without a coordinator.
      index: of this process; -1 without a coordinator.

    Raises:
      UserError: the three don't fit together.
      UnreachableError: the others can't be reached.
    """
    if coordinator and not 0 <= index < count:
        raise UserError(
            f"--coordinator={coordinator} with --num_processes={count} --process_id={index}: give"
            " the number of processes, and each its own number from 0."
        )
    if not coordinator and (count, index) != (0, -1):
        raise UserError(
            f"--num_processes={count} --process_id={index} without --coordinator: give HOST:PORT of"
            " process 0, or leave all three out."
        )
    try:
        if coordinator:
            jax.distributed.initialize(
                coordinator, count, index, cluster_detection_method="deactivate"
            )
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        if "coordinator_address should be defined" in str(error):  # JAX knows of no cluster here
            return
        raise UnreachableError(
            f"The processes of the run can't find each other ({_first_line(error)}): start all of"
            " them at about the same time, and let every host reach the first one's port."
        ) from error


def is_main_process() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def print_on_main(text: str) -> None:
    """Prints on the main process."""
    if is_main_process():
        terminal.print_text(text)


def main_activity(what: str) -> Activity:
    """A long phase (`the verb in -ing`), shown on the main process while it is open."""
    return Activity(what, enabled=is_main_process())


def write_once(path: Path, content: Any) -> None:
    """Writes JSON from the main process; at every moment there is the old file or the new one.

    That holds after a power failure too.

    Raises:
      UserError: it can't be written; the old file is as it was.
      UnreachableError: so, for a reason that may pass.
    """
    if not is_main_process():
        return
    try:
        durable.make_folders(str(path.parent))
        with durable.replacing(str(path), f"{path}.unfinished") as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise file_error(
            error, f"{path} can't be written ({error.strerror or error}): make room for it, or give"
            " another --workdir.", writing=True,
        ) from error  # fmt: skip


def global_max(here: int) -> int:
    """The largest of all processes' numbers; each of them must ask."""
    return int(np.max(multihost_utils.process_allgather(np.array(here))))


def main_first(action: Callable[[], None]) -> None:
    """Runs an action on the main process, and then on the others, which may find it done."""
    if is_main_process():
        action()
    multihost_utils.sync_global_devices("main_first")
    if not is_main_process():
        action()


def run_on_all(action: Callable[[], _T]) -> _T:
    """Runs an action on every process, and returns its result where none is refused.

    Raises:
      UserError: the action raised one; on the processes where it didn't, one that says so, of the
        same exit status.
    """
    refusal = None
    try:
        result = action()
    except UserError as error:
        refusal = error
    status = global_max(refusal.status if refusal else 0)
    if status:
        kind = UnreachableError if status == UnreachableError.status else UserError
        raise refusal or kind("Another process of the run can't go on: see what it says.")
    return result


def on_main(action: Callable[[], None]) -> None:
    """Runs an action on the main process alone; errors are those of `run_on_all`."""
    run_on_all(lambda: action() if is_main_process() else None)


@contextlib.contextmanager
def lost_peer_errors() -> Iterator[None]:
    """Converts the error of a collective, whatever its type, to `LostProcessError`.

    (Where no collective fails, JAX ends this process after a while without a sign of life.)

    Raises:
      LostProcessError: see above.
    """
    try:
        yield
    except Exception as error:
        if (loss := lost_process_error(error)) is None or loss is error:
            raise
        raise loss from error


def lost_process_error(error: BaseException | None) -> LostProcessError | None:
    """Returns what to raise for the error of a collective; None: it is another error.

    JAX and Orbax raise `ValueError`, `JaxRuntimeError` or `TimeoutError` where a process is gone.
    An error is a collective's if it, or one that it comes from, was raised in a function that
    waits for other processes, or says that a connection to one broke.
    """
    if isinstance(error, LostProcessError):
        return error
    if jax.process_count() == 1 or isinstance(error, (UserError, StoppedError)):
        return None
    cause = error
    while cause is not None:
        if _is_of_collective(cause):
            return LostProcessError(
                f"This process lost another process of the run ({_first_line(cause)}): see what"
                " that one says and start all of them again; they go on from the newest"
                " checkpoint."
            )
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    return None


def _is_of_collective(error: BaseException) -> bool:
    """Whether an error is a collective's, by what it says or by where it was raised."""
    if isinstance(error, (ValueError, RuntimeError)) and BROKEN_CONNECTION.search(str(error)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(_COLLECTIVES.fullmatch(frame.f_globals.get("__name__", "")) for frame, _ in frames)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
