"""CPU quotas of containers: of this process's control group (Linux) and of its ancestors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Octal escape of a space, tab, line feed or backslash in mountinfo.
_ESCAPED = re.compile(r"\\([0-7]{3})")


def cpu_quotas(root: str = "/") -> Iterator[float]:
    """Yields every quota that limits this process, in cores.

    The quota is `cpu.max` in cgroup version 2, and `cpu.cfs_quota_us` / `cpu.cfs_period_us` in
    version 1 (Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).

    Args:
      root: folder that contains `proc` and `sys`.
    """
    top = Path(root)
    mounts = _mounts(top)
    for line in _text(top / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        kind = "cgroup2" if number == "0" and not controllers else "cpu"
        if kind == "cpu" and "cpu" not in controllers.split(","):
            continue
        for mount, at_top in mounts.get(kind, []):
            for folder in _with_ancestors(top / mount.lstrip("/"), at_top, group):
                quota = _quota_2(folder) if kind == "cgroup2" else _quota_1(folder)
                if quota is not None:
                    yield quota


def _mounts(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Returns {kind: [(mount point, group mounted there)]}; kind is "cgroup2" or "cpu".

    A line of mountinfo: ID PARENT DEVICE ROOT MOUNT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for line in _text(root / "proc/self/mountinfo").splitlines():
        place, _, kind = (part.split() for part in line.partition(" - "))
        if len(place) < 5 or len(kind) < 3:
            continue
        mounted = (_unescaped(place[4]), _unescaped(place[3]))
        if kind[0] == "cgroup2":
            found.setdefault("cgroup2", []).append(mounted)
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            found.setdefault("cpu", []).append(mounted)
    return found


def _unescaped(path: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)


def _with_ancestors(mount: Path, top: str, group: str) -> Iterator[Path]:
    """Yields the folders of a group and of its ancestors, as far as they are mounted.

    A container may show the group's path on the host, of which only the end is mounted.
    """
    inner = PurePosixPath(group)
    if inner.is_relative_to(top):
        inner = inner.relative_to(top)
    parts = [part for part in inner.parts if part not in ("/", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _quota_2(folder: Path) -> float | None:
    """Returns a quota of version 2; the file holds "QUOTA PERIOD" in microseconds, or "max"."""
    return _ratio(*_text(folder / "cpu.max").split()[:2])


def _quota_1(folder: Path) -> float | None:
    """Returns a quota of version 1; the file holds -1 for no quota."""
    return _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _ratio(quota: str = "", period: str = "") -> float | None:
    try:
        numbers = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return numbers[0] / numbers[1] if min(numbers) > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or not readable
        return ""
