"""CPU quotas of containers: of this process's control group (Linux) and of its ancestors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipelines.control_groups import folders, text_of


def cpu_quotas(root: str = "/") -> Iterator[float]:
    """Yields every quota that limits this process, in cores.

    The quota is `cpu.max` in cgroup version 2, and `cpu.cfs_quota_us` / `cpu.cfs_period_us` in
    version 1 (Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).

    Args:
      root: folder that contains `proc` and `sys`.
    """
    for version, folder in folders("cpu", root):
        quota = _quota_2(folder) if version == 2 else _quota_1(folder)
        if quota is not None:
            yield quota


def _quota_2(folder: Path) -> float | None:
    """Returns a quota of version 2; the file holds "QUOTA PERIOD" in microseconds, or "max"."""
    return _ratio(*text_of(folder / "cpu.max").split()[:2])


def _quota_1(folder: Path) -> float | None:
    """Returns a quota of version 1; the file holds -1 for no quota."""
    return _ratio(text_of(folder / "cpu.cfs_quota_us"), text_of(folder / "cpu.cfs_period_us"))


def _ratio(quota: str = "", period: str = "") -> float | None:
    try:
        numbers = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return numbers[0] / numbers[1] if min(numbers) > 0 else None
