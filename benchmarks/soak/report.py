"""The report of a soak: a comparison of both runs, with faults, time and memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from benchmarks import markdown_table
from benchmarks.soak import saved
from benchmarks.soak.faults import UNEXPECTED
from benchmarks.soak.record import Record
from data_pipelines.format import storage
from xkd_jax.training.checkpoints.saved_checkpoint import DAMAGED
from xkd_jax.training.checkpoints.versions import versions

PLACES = {
    "folder": "a folder",
    "s3": "an emulated bucket of Amazon S3",
    "gs": "an emulated bucket of Google Cloud Storage",
}
_RUNS = {"alone": "without faults", "disturbed": "with faults"}  # names of records


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of named values (of arrays, or of steps) of two runs."""

    compared: int
    differ: list[str]
    missing: list[str]

    @classmethod
    def of(cls, expected: Mapping, found: Mapping) -> Comparison:
        """Compares values bitwise; names in only one of both are missing."""
        both = [name for name in expected if name in found]
        differ = [str(n) for n in both if _bits(expected[n]) != _bits(found[n])]
        missing = [str(n) for n in {**expected, **found} if n not in expected or n not in found]
        return cls(len(both), differ, missing)

    @property
    def equal(self) -> bool:
        """Whether there are values, and all of them are equal."""
        return bool(self.compared) and not self.differ and not self.missing

    def __str__(self) -> str:
        text = f"{self.compared} compared, {len(self.differ)} differ, {len(self.missing)} missing"
        named = [*self.differ, *self.missing][:3]
        return text + (f" (such as {', '.join(named)})" if named else "")


def _bits(value: np.ndarray | float) -> tuple[str, tuple[int, ...], bytes]:
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


def measure(
    place: str,
    workdirs: tuple[PurePath, PurePath],
    steps: int,
    alone: Record,
    disturbed: Record,
    left: Sequence[str],
) -> dict[str, Any]:
    """Compares the two runs of a soak, and returns the results.

    Args:
      place: where the runs are, a key of `PLACES`.
      workdirs: folders or URLs of the run without faults and of the other one.
      steps: of the runs.
      alone: records of the run without faults.
      disturbed: records of the run with faults.
      left: scheduled faults that did not happen.
    """
    arrays = Comparison.of(*(saved.arrays(workdir, steps) for workdir in workdirs))
    losses = Comparison.of(*(saved.losses(workdir) for workdir in workdirs))
    lines = saved.lines(workdirs[1])
    once = lines == list(range(1, steps + 1))
    faults = disturbed.events()
    starts = faults.pop("started", 0)
    unexpected = {
        name.removeprefix(UNEXPECTED): faults.pop(name)
        for name in [*faults]
        if name.startswith(UNEXPECTED)
    }
    equal = arrays.equal and losses.equal and losses.compared == steps
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": versions(),
        "place": place,
        "steps": steps,
        "passed": equal and once and not unexpected and not left,
        "starts": starts,
        "faults": dict(sorted(faults.items())),
        "left": list(left),
        "set_aside": _set_aside(workdirs[1] / "checkpoints"),
        "unexpected": unexpected,
        "arrays": str(arrays),
        "losses": str(losses),
        "lines": f"{len(lines)}, {'each step once, in order' if once else 'not each step once'}",
        "minutes": {record.name: record.minutes() for record in (alone, disturbed)},
        "memory": {
            f"{record.name}, {process}": quarters
            for record in (alone, disturbed)
            for process, quarters in record.memory(steps).items()
        },
    }


def _set_aside(folder: PurePath) -> int:
    """Returns the number of checkpoints that were found damaged."""
    if isinstance(folder, Path):
        return len(list(folder.glob(f"*{DAMAGED}*")))
    return sum(name.endswith(DAMAGED) for name in storage.sizes(str(folder)))


def _memory_row(name: str, quarters: list[int]) -> tuple[str, str]:
    run, process = name.split(", ")
    return (
        f"peak MB in each quarter, {_RUNS[run]}, {process}",
        ", ".join(f"{peak:,}" for peak in quarters),
    )


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields lines of Markdown: the results of `measure`."""
    at, minutes = found["versions"], found["minutes"]
    unexpected = [f"{often} {what}" for what, often in found["unexpected"].items()]
    rows = [
        ("place", PLACES[found["place"]]),
        ("steps", f"{found['steps']:,}, without and with faults"),
        ("result", "passed" if found["passed"] else "FAILED"),
        ("starts", found["starts"]),
        *((name, often) for name, often in found["faults"].items()),
        ("faults that did not happen", ", ".join(found["left"]) or "none"),
        ("damaged checkpoints detected", found["set_aside"]),
        ("unexpected ends", ", ".join(unexpected) or "none"),
        ("arrays of the last checkpoint", found["arrays"]),
        ("losses", found["losses"]),
        ("lines of metrics.jsonl", found["lines"]),
        ("minutes", ", ".join(f"{n:.0f} {_RUNS[name]}" for name, n in minutes.items())),
        *(_memory_row(name, quarters) for name, quarters in found["memory"].items()),
    ]
    yield from markdown_table.lines(("soak", found["date"]), rows)
    yield ""
    yield (
        f"Python {at['python']}, JAX {at['jax']}, Orbax {at['orbax-checkpoint']},"
        f" TensorStore {at['tensorstore']}, program {at['code']}."
    )
