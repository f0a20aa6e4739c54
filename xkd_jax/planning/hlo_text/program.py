"""A compiled program: its computations, and how often each one runs.

XLA's cost analysis counts the body of a loop once; here it counts once for each iteration.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from xkd_jax.planning.hlo_text import loops
from xkd_jax.planning.hlo_text.arrays import Platform, UnknownTextError
from xkd_jax.planning.hlo_text.computation import Computation
from xkd_jax.planning.hlo_text.operation import ASYNC_CALLS, Operation

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: {name: computation}, and the name of the entry computation."""

    computations: dict[str, Computation]
    entry: str

    @classmethod
    def parse(cls, text: str, platform: Platform) -> Module:
        """Parses the result of `jax.stages.Compiled.as_text`.

        Args:
          text: the program.
          platform: that it is compiled for.

        Raises:
          UnknownTextError: something in it is unknown.
        """
        computations: dict[str, Computation] = {}
        entry, current = "", None
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = computations.setdefault(found[1], {})
                entry = found[1] if line.startswith("ENTRY") else entry
            elif line.startswith("}"):
                current = None
            elif current is not None and line.strip():
                operation = Operation.parse(line, platform)
                current[operation.name] = operation
        if not entry:
            raise UnknownTextError("a program without ENTRY")
        return cls(computations, entry)

    def runs(self) -> Iterator[tuple[str, int, bool]]:
        """Yields computations that run: (name, number of runs, whether they overlap with others).

        These are the entry computation and all that it calls, without the computations of fusions,
        which are parts of the fusion operation.
        """
        waiting = [(self.entry, 1, False)]
        while waiting:
            name, times, overlaps = waiting.pop()
            yield name, times, overlaps
            for operation in self.computations[name].values():
                if operation.opcode == "while":
                    trips = loops.trips(self.computations, operation, self.computations[name])
                    waiting.append((operation.called["body"], times * trips, overlaps))
                elif operation.opcode in ("call", "conditional", *ASYNC_CALLS):
                    apart = overlaps or operation.opcode in ASYNC_CALLS
                    waiting.extend((called, times, apart) for called in operation.called.values())

    def inside(self, operation: Operation) -> Iterator[Operation]:
        """Yields an operation and, for a fusion, all operations in it."""
        yield operation
        called = operation.called.get("calls")
        if called is not None and operation.opcode.startswith("fusion"):
            for inner in self.computations[called].values():
                yield from self.inside(inner)
