"""The report of a soak: a comparison of both runs, with faults, time and memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.soak import saved
from benchmarks.soak.faults import DAMAGES, UNEXPECTED
from benchmarks.soak.record import Record


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


def report(folder: Path, steps: int, alone: Record, disturbed: Record) -> tuple[str, bool]:
    """Compares the two runs of a folder.

    Args:
      folder: of the soak.
      steps: of the runs.
      alone: records of the run without faults.
      disturbed: records of the run with faults.

    Returns:
      The report, and whether both runs are equal and faults explain all ends.
    """
    workdirs = [folder / record.name for record in (alone, disturbed)]
    arrays = Comparison.of(*(saved.arrays(workdir, steps) for workdir in workdirs))
    losses = Comparison.of(*(saved.losses(workdir) for workdir in workdirs))
    events = disturbed.events()
    unexpected = {
        name.removeprefix(UNEXPECTED): often
        for name, often in events.items()
        if name.startswith(UNEXPECTED)
    }
    passed = arrays.equal and losses.equal and losses.compared == steps and not unexpected
    set_aside = len(list((folder / disturbed.name / "checkpoints").glob("*.damaged*")))
    bits, cuts = (events.get(damage, 0) for damage in DAMAGES)
    killed, hung = (events.get(name, 0) for name in ("worker killed", "worker hung"))
    rows = [
        ("steps", f"{steps}, alone and with faults"),
        ("result", "passed" if passed else "FAILED"),
        ("starts", str(events.get("started", 0))),
        ("kills", str(events.get("killed", 0))),
        ("preemptions", str(events.get("preempted", 0))),
        ("workers", f"{killed} killed, {hung} hung"),
        ("checkpoints", f"{bits} with a bit flipped, {cuts} with a file cut off; "
                        f"{set_aside} found damaged and set aside"),
        ("unexpected", ", ".join(f"{n} {what}" for what, n in unexpected.items()) or "nothing"),
        ("arrays", str(arrays)),
        ("losses", str(losses)),
        *_memory(alone, steps),
        *_memory(disturbed, steps),
        ("minutes", f"{alone.minutes():.0f} {alone.name}, "
                    f"{disturbed.minutes():.0f} {disturbed.name}"),
    ]  # fmt: skip
    return "\n".join(f"{name:<12} {text}" for name, text in rows), passed


def _memory(record: Record, steps: int) -> list[tuple[str, str]]:
    """Returns a row for each kind of process."""
    return [
        ("memory", f"{' '.join(f'{mb:5d}' for mb in quarters)} MB at most in each quarter,"
                   f" {record.name}, {process}")
        for process, quarters in record.memory(steps).items()
    ]  # fmt: skip
