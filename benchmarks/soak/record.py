"""Records of one of the two runs, in files that a resumed command reads."""

from __future__ import annotations

import collections
from pathlib import Path

from data_pipelines import terminal


class Record:
    """The records of a run: output, starts and faults, memory and time."""

    def __init__(self, folder: Path, name: str):
        self.name, self.log = name, folder / f"{name}.log"
        self._memory, self._events = folder / f"{name}.memory", folder / f"{name}.events"
        self._seconds = folder / f"{name}.seconds"

    def clear(self) -> None:
        """Removes the records of an earlier command."""
        for file in (self.log, self._memory, self._events, self._seconds):
            file.unlink(missing_ok=True)

    def note_memory(self, step: int, main: int, worker: int) -> None:
        """Records the resident megabytes of the main process and of its largest worker."""
        _append(self._memory, f"{step} {main} {worker}")

    def note_event(self, step: int, event: str) -> None:
        """Records and prints a start or a fault."""
        _append(self._events, event)
        terminal.print_text(terminal.escaped(f"{self.name}: step {step}  {event}"))

    def note_seconds(self, seconds: float) -> None:
        """Records the time that this command spent on the run."""
        _append(self._seconds, f"{seconds:.1f}")

    def events(self) -> dict[str, int]:
        """Returns {event: count}."""
        return dict(collections.Counter(_lines(self._events)))

    def minutes(self) -> float:
        """Returns the total time spent on the run by all commands, in minutes."""
        return sum(map(float, _lines(self._seconds))) / 60

    def reached(self) -> int:
        """Returns the last completed step of all starts (0: none)."""
        return max((step for step, _, _ in self._rows()), default=0)

    def memory(self, steps: int) -> dict[str, list[int]]:
        """Returns the largest megabytes in each quarter of the steps."""
        quarters = [
            [row for row in self._rows() if q * steps < 4 * row[0] <= (q + 1) * steps]
            for q in range(4)
        ]
        return {
            name: [max((row[column] for row in quarter), default=0) for quarter in quarters]
            for column, name in ((1, "main process"), (2, "largest worker"))
        }

    def _rows(self) -> list[tuple[int, int, int]]:
        rows = (line.split() for line in _lines(self._memory))
        return [(int(step), int(main), int(worker)) for step, main, worker in rows]


def _append(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(line + "\n")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
