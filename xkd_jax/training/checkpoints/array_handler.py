"""Orbax's reading and writing of arrays, with one report for all arrays that fail.

Orbax handles all arrays concurrently. If one fails, it raises that error and abandons the others,
and Python and TensorStore print a traceback for each of them.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Sequence
from logging import getLogger

import jax
import orbax.checkpoint as ocp
from absl import logging

_LEAST_SLICE = 2**16  # bytes


class _ArrayHandler(ocp.type_handlers.ArrayHandler):
    """Orbax's handler, which waits for the other arrays before it raises a reading error."""

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.RestoreArgs] | None = None,
    ) -> Sequence[jax.Array]:
        """Reads the arrays.

        Raises:
          Exception: Orbax's, for the first array that can't be read.
        """
        earlier = asyncio.all_tasks()  # some of them await this one
        try:
            return await super().deserialize(infos, args)
        except Exception:
            while others := asyncio.all_tasks() - earlier:
                await asyncio.gather(*others, return_exceptions=True)
            raise


def tree_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns the handler that saves and reads PyTrees of arrays.

    Devices that hold the same shard save one slice of it each. Slicing compiles a program for each
    slice, so that small arrays are saved by one device.
    """
    arrays = _ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_SLICE)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    )


@functools.cache
def report_failed_saves_once() -> None:
    """Suppresses reports of a failed save that repeat the error which is raised.

    Orbax saves in threads: it logs the exception there, and raises it at the next call of its
    manager. Writes that fail after the first one are tasks that are never awaited, and tasks that
    end later fail because the thread's event loop is closed. All other reports are kept.
    """
    report = sys.unraisablehook

    def report_others(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = report_others
    logging.get_absl_logger().addFilter(
        lambda record: not (record.exc_info and "/orbax/" in record.pathname)
    )
    getLogger("asyncio").addFilter(lambda record: "/orbax/" not in record.getMessage())
