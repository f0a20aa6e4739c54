"""The processes of a run: start, the main process, and errors of lost processes."""

from __future__ import annotations

import contextlib
import json
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
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
    kind_of,
)
from data_pipelines.format import storage
from xkd_jax.parallel import joint_end

_T = TypeVar("_T")
# Texts of collectives' errors if the connection to a process broke.
BROKEN_CONNECTION = re.compile(
    r"gloo|connection|unavailable|nccl|barrier|heartbeat|coordination", re.IGNORECASE
)
# Modules with collectives.
_COLLECTIVES = re.compile(r"jax\.experimental\.multihost_utils|orbax\.checkpoint\..*multihost.*")


def start(coordinator: str, count: int, index: int) -> None:
    """Connects the processes of a distributed run; must be called before the first use of devices.

    Without a coordinator, JAX detects Cloud TPU slices, SLURM, Kubernetes and Open MPI. If it
    detects none of them, the run has one process.

    Args:
      coordinator: HOST:PORT of process 0, or an empty string.
      count: number of processes; 0 without a coordinator.
      index: index of this process; -1 without a coordinator.

    Raises:
      UserError: the arguments are inconsistent.
      UnreachableError: the other processes can't be reached.
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
        if "coordinator_address should be defined" in str(error):  # no cluster detected
            return
        raise UnreachableError(
            f"The processes of the run can't find each other ({_first_line(error)}): start all of"
            " them at about the same time, and let every host reach the first one's port."
        ) from error
    joint_end.follow()


def is_main_process() -> bool:
    """Whether this is the process that prints and writes files of the run."""
    return jax.process_index() == 0


def print_on_main(text: str) -> None:
    """Prints a line on the main process."""
    if is_main_process():
        terminal.print_text(text)


def main_activity(what: str) -> Activity:
    """Context of a long phase, shown on the main process; `what` is a verb in -ing."""
    return Activity(what, enabled=is_main_process())


def write_once(path: PurePath, content: Any) -> None:
    """Replaces a JSON file atomically, on the main process; safe against power failures.

    Args:
      path: the file, or the URL of an object.
      content: of JSON types.

    Raises:
      UserError: the file can't be written; the old one is kept.
      UnreachableError: for a transient reason.
    """
    if not is_main_process():
        return
    text = (json.dumps(content, indent=2) + "\n").encode()
    if not isinstance(path, Path):
        storage.write(str(path), text)
        return
    try:
        durable.make_folders(str(path.parent))
        with durable.replacing(str(path), f"{path}.unfinished") as file:
            file.write(text)
    except OSError as error:
        raise file_error(
            error, f"{path} can't be written ({error.strerror or error}): make room for it, or give"
            " another --workdir.", writing=True,
        ) from error  # fmt: skip


def global_max(here: int) -> int:
    """Returns the maximum over all processes; every process must call it."""
    return int(np.max(multihost_utils.process_allgather(np.array(here))))


def main_first(action: Callable[[], None]) -> None:
    """Runs an action on the main process, and after it on the others."""
    if is_main_process():
        action()
    multihost_utils.sync_global_devices("main_first")
    if not is_main_process():
        action()


def run_on_all(action: Callable[[], _T]) -> _T:
    """Runs an action on every process and returns its result.

    Raises:
      UserError: the action raised it on a process; with the same exit status on all processes.
    """
    refusal = None
    try:
        result = action()
    except UserError as error:
        refusal = error
    status = global_max(refusal.status if refusal else 0)
    if status:
        raise refusal or kind_of(status)("Another process of the run failed: see its output.")
    return result


def on_main(action: Callable[[], None]) -> None:
    """Runs an action on the main process only; errors are those of `run_on_all`."""
    run_on_all(lambda: action() if is_main_process() else None)


def number_of_main(action: Callable[[], int]) -> int:
    """Runs an action on the main process only; returns its result on every process.

    Errors are those of `run_on_all`.
    """
    # int: all processes must send the same dtype, and `action` may return a bool
    number = int(run_on_all(lambda: action() if is_main_process() else 0))
    return int(np.ravel(multihost_utils.process_allgather(np.array(number)))[0])


@contextlib.contextmanager
def lost_peer_errors() -> Iterator[None]:
    """Converts errors of collectives, of any type, to `LostProcessError`.

    (If no collective fails, JAX's heartbeat ends this process.)

    Raises:
      LostProcessError: the connection to another process broke.
    """
    try:
        yield
    except Exception as error:
        if (loss := lost_process_error(error)) is None or loss is error:
            raise
        raise loss from error


def lost_process_error(error: BaseException | None) -> LostProcessError | None:
    """Returns the `LostProcessError` for the error of a collective, or None for another error.

    JAX and Orbax raise `ValueError`, `JaxRuntimeError` or `TimeoutError` if a process is lost. An
    error is a collective's if it, or one of its causes, was raised in one of `_COLLECTIVES` or has
    a text of `BROKEN_CONNECTION`.
    """
    if isinstance(error, LostProcessError):
        return error
    if jax.process_count() == 1 or isinstance(error, (UserError, StoppedError)):
        return None
    cause = error
    while cause is not None:
        if _is_of_collective(cause):
            return LostProcessError(
                f"The connection to another process of the run broke ({_first_line(cause)}): see"
                " its output, and start all processes again to resume from the newest checkpoint."
            )
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    return None


def _is_of_collective(error: BaseException) -> bool:
    """Whether an error is a collective's, by its text or by the module that raised it."""
    if "tensorstore/" in str(error):  # a connection to a bucket, not to a process
        return False
    if isinstance(error, (ValueError, RuntimeError)) and BROKEN_CONNECTION.search(str(error)):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(_COLLECTIVES.fullmatch(frame.f_globals.get("__name__", "")) for frame, _ in frames)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
