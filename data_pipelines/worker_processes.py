"""Worker processes: number of usable cores, and ending with the parent."""

from __future__ import annotations

import math
import multiprocessing
import os
import threading

from data_pipelines.cpu_quota import cpu_quotas


def usable_cores(root: str = "/") -> int:
    """Returns the number of cores that this process may use, at least 1.

    It is the minimum of the machine's cores, the process' affinity, and the CPU quotas of its
    container, each rounded up.

    Args:
      root: folder that contains `proc` and `sys`.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min([cores, *(math.ceil(quota) for quota in cpu_quotas(root))])


def end_with_parent() -> None:
    """Ends this worker process, with status 1, when its parent process has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
