"""Memory of this machine, or of the container that this process runs in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.control_groups import folders, text_of


def memory_limit(root: str = "/") -> int:
    """Returns the bytes that this process may use: those of the machine, or fewer in a container.

    The limits of control groups are `memory.max` of version 2 and `memory.limit_in_bytes` of
    version 1 (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst).

    Args:
      root: folder that contains `proc` and `sys`.
    """
    total = re.search(r"MemTotal: +([0-9]+) kB", text_of(Path(root) / "proc/meminfo"))
    if total:
        machine = 1024 * int(total[1])
    else:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(root)])


def _limits(root: str) -> Iterator[int]:
    for version, folder in folders("memory", root):
        text = text_of(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if text.strip().isdecimal():  # otherwise "max", or no such file
            yield int(text)


def memory_used(root: str = "/") -> int:
    """Returns the resident bytes of this process; 0 if unknown.

    Args:
      root: folder that contains `proc`.
    """
    pages = text_of(Path(root) / "proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0
