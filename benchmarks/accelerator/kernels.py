"""Sums the time of kernels in a JAX profile of traced steps."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

_TOP = 25
# Numbers that distinguish copies of a kernel: fusion.12, loop_add_fusion_3.
_NUMBER = re.compile(r"[._]\d+(?=$|[._])")


def read(folder: str) -> jax.profiler.ProfileData:
    """Returns the profile that `jax.profiler.trace` wrote to a folder.

    Raises:
      FileNotFoundError: there is no profile.
    """
    for path in sorted(Path(folder).rglob("*.xplane.pb")):
        return jax.profiler.ProfileData.from_file(str(path))
    raise FileNotFoundError(f"{folder} has no profile: the profiler wrote none.")


def summarize(profile: jax.profiler.ProfileData, steps: int) -> dict[str, Any]:
    """Returns the kernels with the most time, of `steps` steps.

    Returns:
      `busy_milliseconds` per step, in which the device ran a kernel or a copy; `kernels`,
      `operations` and `places`: lists of {name, milliseconds, calls} per step, by kernel, by
      operation of the compiled program, and by line of the source.
    """
    by_kernel, by_operation, by_place = _Times(), _Times(), _Times()
    spans = []
    for name, start, duration, stats in _device_events(profile):
        by_kernel.add(_NUMBER.sub("", name), duration)
        by_operation.add(str(stats.get("hlo_op", "none")), duration)
        by_place.add(str(stats.get("tf_op") or stats.get("name") or "none"), duration)
        spans.append((start, start + duration))
    return {
        "busy_milliseconds": round(_covered(spans) / steps / 1e6, 3),
        "kernels": by_kernel.top(steps),
        "operations": by_operation.top(steps),
        "places": by_place.top(steps),
    }


class _Times:
    def __init__(self) -> None:
        self._nanoseconds: collections.Counter[str] = collections.Counter()
        self._calls: collections.Counter[str] = collections.Counter()

    def add(self, name: str, nanoseconds: float) -> None:
        self._nanoseconds[name] += nanoseconds  # type: ignore[assignment]
        self._calls[name] += 1

    def top(self, steps: int) -> list[dict[str, Any]]:
        return [
            {
                "name": name[:160],
                "milliseconds": round(total / steps / 1e6, 3),
                "calls": round(self._calls[name] / steps, 1),
            }
            for name, total in self._nanoseconds.most_common(_TOP)
        ]


def _device_events(
    profile: jax.profiler.ProfileData,
) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """(name, start, duration in ns, stats) of the devices' events; without a device, the CPU's."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            # other lines of a device group the events of its streams by module and by operation
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                if devices or "hlo_op" in stats:
                    yield event.name, event.start_ns, event.duration_ns, stats


def _covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
