"""Processes that share the cores of this machine: how many, and for how long."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading

from data_pipelines.cpu_quota import cpu_quotas


def usable_cores(root: str = "/") -> int:
    """Returns the number of cores that this process may use, at least 1.

    The least of the machine's, of its affinity's and of the CPU quotas of its container, where a
    part of a core counts as a whole one.

    Args:
      root: below which `proc` and `sys` lie.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(math.ceil(quota) for quota in cpu_quotas(root))])


def end_with_parent() -> None:
    """Makes this worker process end where its parent is killed and can't tell it to."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
