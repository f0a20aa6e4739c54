"""How Orbax reads and writes a checkpoint's arrays, such that one that fails is one report.

Orbax handles all arrays at once. Where one fails it raises that and abandons the others: Python
and TensorStore then report each of them, a page for each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import jax
import orbax.checkpoint as ocp
from absl import logging

_LEAST_SLICE = 2**16  # bytes


class _ArrayHandler(ocp.type_handlers.ArrayHandler):
    """Orbax's, but where an array can't be read it waits for the others before it raises."""

    async def deserialize(
        self,
        infos: Sequence[ocp.type_handlers.ParamInfo],
        args: Sequence[ocp.RestoreArgs] | None = None,
    ) -> Sequence[jax.Array]:
        """Reads the arrays.

        Raises:
          Exception: of the first that can't be read, as Orbax raises it.
        """
        earlier = asyncio.all_tasks()  # some wait for this one
        try:
            return await super().deserialize(infos, args)
        except Exception:
            while others := asyncio.all_tasks() - earlier:
                await asyncio.gather(*others, return_exceptions=True)
            raise


def tree_handler() -> ocp.PyTreeCheckpointHandler:
    """How Orbax saves and reads trees of arrays.

    Where several devices hold the same part of an array, each of them saves a slice of it. Cutting
    that off is a program of its own for each slice, which only pays for large ones.
    """
    arrays = _ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_SLICE)
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    )


def report_failed_saves_once() -> None:
    """Drops what Orbax and TensorStore report of a failed save besides the error that is raised.

    Orbax saves in threads. It logs the exception there, and raises it again at the next call to its
    manager; each write that ends later finds the thread's event loop closed. Nothing else is
    dropped.
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
