"""Control groups of this process (Linux), which have the limits of a container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Octal escape of a space, tab, line feed or backslash in mountinfo.
_ESCAPED = re.compile(r"\\([0-7]{3})")


def folders(controller: str, root: str = "/") -> Iterator[tuple[int, Path]]:
    """Yields the version and the folder of every group that limits this process.

    They are its own group and its ancestors (Linux, Documentation/admin-guide/cgroup-v2.rst and
    cgroup-v1/cgroups.rst).

    Args:
      controller: `cpu` or `memory`.
      root: folder that contains `proc` and `sys`.
    """
    top = Path(root)
    mounts = _mounts(top, controller)
    for line in text_of(top / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount, at_top in mounts.get("cgroup2" if version == 2 else controller, []):
            for folder in _with_ancestors(top / mount.lstrip("/"), at_top, group):
                yield version, folder


def _mounts(root: Path, controller: str) -> dict[str, list[tuple[str, str]]]:
    """Returns {kind: [(mount point, group mounted there)]}; kind is "cgroup2" or the controller.

    A line of mountinfo: ID PARENT DEVICE ROOT MOUNT OPTIONS ... - TYPE SOURCE SUPER_OPTIONS.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text_of(root / "proc/self/mountinfo").splitlines():
        place, _, kind = (part.split() for part in line.partition(" - "))
        if len(place) < 5 or len(kind) < 3:
            continue
        mounted = (_unescaped(place[4]), _unescaped(place[3]))
        if kind[0] == "cgroup2":
            found.setdefault("cgroup2", []).append(mounted)
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            found.setdefault(controller, []).append(mounted)
    return found


def _unescaped(path: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), path)


def _with_ancestors(mount: Path, top: str, group: str) -> Iterator[Path]:
    """Yields the folders of a group and of its ancestors, as far as they are mounted.

    A container may see the group's path on the host, although only the end of that path is mounted.
    """
    inner = PurePosixPath(group)
    if inner.is_relative_to(top):
        inner = inner.relative_to(top)
    parts = [part for part in inner.parts if part not in ("/", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def text_of(path: Path) -> str:
    """The text of a file; empty where it can't be read: not Linux, or not visible."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
