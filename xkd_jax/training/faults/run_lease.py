"""A run's lease on its workdir, held by the main process for all processes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import PurePath

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines import lease
from data_pipelines.errors import UserError
from data_pipelines.holder import TOKEN_LENGTH
from data_pipelines.lease import Lease
from xkd_jax.parallel.processes import (
    is_main_process,
    lost_peer_errors,
    on_main,
    print_on_main,
    run_on_all,
)

_REMEDY = "wait until it has ended, or give another --workdir."
SEEN_SECONDS = 10.0  # delay until a network file system shows a new file on another host


@contextlib.contextmanager
def held(workdir: PurePath) -> Iterator[Callable[[], None]]:
    """Holds the lease on a folder, so that no other run writes there; every process must enter it.

    Yields:
      A function that every process must call before the run writes to the folder. It raises
      `LeaseLostError` on the main process, and `UnreachableError` on the others, if another run
      holds the lease now.

    Raises:
      LeaseHeldError: another run holds the lease; on the other processes, `UnreachableError`.
      UserError: the folder can't be written to, or the processes don't share it.
    """
    with contextlib.ExitStack() as stack:
        busy, leases = f"Another run is using {workdir}", list[Lease]()
        with lost_peer_errors():
            on_main(
                lambda: leases.append(
                    stack.enter_context(lease.held(workdir, busy, _REMEDY, waiting=print_on_main))
                )
            )
            _check_shared(workdir, leases[0].token if leases else "")
        with lost_peer_errors():  # inside the lease, which a save in progress still needs
            yield lambda: on_main(lambda: leases[0].check())


def _check_shared(workdir: PurePath, token: str) -> None:
    """Checks that every process reads the file which the main process has written.

    Raises:
      UserError: one process does not find it.
    """
    mine = np.frombuffer(token.encode().ljust(TOKEN_LENGTH), np.uint8)
    theirs = np.asarray(multihost_utils.broadcast_one_to_all(mine)).tobytes().decode()

    def see() -> None:
        if is_main_process():
            return
        end = time.monotonic() + SEEN_SECONDS
        while True:
            with contextlib.suppress(OSError):
                os.listdir(workdir)  # makes NFS refresh its cache
            if (found := Lease(workdir).holder()) and found.token == theirs:
                return
            if time.monotonic() >= end:
                break
            time.sleep(1)
        raise UserError(
            f"{workdir} on {socket.gethostname()} (process {jax.process_index()}) is not the folder"
            " of that name on the main process' host: give every process the same --workdir on a"
            " file system that all hosts share."
        )

    run_on_all(see)
