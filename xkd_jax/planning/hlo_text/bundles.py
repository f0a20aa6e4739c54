"""Instructions of a TPU kernel in the compiler's listing: bundles, one a cycle.

A line is `0x1 LB: > { ... }`: address, mark, one `>` for each loop around it, and the bundle. `LB`
begins a loop, whose test `scmp.ge.s32.totalorder %counter, N /* loop exit test */` ends it after N
iterations. A branch to the next `PF` skips bundles in iterations where its predicate is true; this
is how the steps of a grid are pipelined, with iterations before the first and after the last step.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from xkd_jax.planning.hlo_text.arrays import UnknownTextError

_LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?P<mark>[A-Z]{2})?\s*: (?P<loops>>*) ?\{(?P<text>.*)")
_KEY = "= control target key end"
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder (?:\(!?%\w+\), )?%\w+, (\d+) /\* loop exit test \*/")
_BOUND = re.compile(r"%p(\d+)_p\d+ = scmp\.(ge|lt)\.s32\.totalorder %\w+, (\d+) (?!/\* loop exit)")
_BETWEEN = re.compile(r"%p(\d+)_p\d+ = pnand %p(\d+)_p\d+, %p(\d+)_p\d+")
_SKIP = re.compile(r"sbr\.rel \(%p(\d+)_p\d+\) target")


@dataclasses.dataclass
class _Loop:
    """Bundles of a loop, without the loops in it.

    skipped: bundles after a branch, up to its end; and the number of iterations that run them.
    """

    trips: int | None = None
    bundles: int = 0
    skipped: int = 0
    runs: int | None = None
    skipping: bool = False
    inner: list[tuple[_Loop, bool]] = dataclasses.field(default_factory=list)

    @property
    def cycles(self) -> float:
        """Cycles of all iterations."""
        if self.trips is None:
            raise UnknownTextError("a loop of a kernel without an exit test")
        runs = self.trips if self.runs is None else self.runs
        within = sum(loop.cycles for loop, skipped in self.inner if skipped) + self.skipped
        return runs * within + self.trips * (
            self.bundles + sum(loop.cycles for loop, skipped in self.inner if not skipped)
        )


def cycles(listing: str) -> float:
    """Returns the cycles of one call of a kernel, without waiting for memory.

    Raises:
      UnknownTextError: the listing is written in an unknown way.
    """
    whole = _Loop(trips=1)
    stack = [whole]
    bounds: dict[str, tuple[str, int]] = {}
    between: dict[str, tuple[str, str]] = {}
    last = 0
    for mark, loops, text in _lines(listing):
        # an empty bundle's line has no `>`
        depth = last = last if text.startswith("}") else loops
        if mark == "LB" and depth:
            del stack[depth:]
        if depth > len(stack) or (depth == len(stack) and mark != "LB"):
            raise UnknownTextError("a loop of a kernel without a beginning")
        if depth == len(stack):
            stack.append(_Loop())
            stack[-2].inner.append((stack[-1], stack[-2].skipping))
        # a line outside a loop does not end it: its last bundles come after its branch
        loop = stack[depth]
        loop.skipping = loop.skipping and mark != "PF"
        if loop.skipping:
            loop.skipped += 1
        else:
            loop.bundles += 1
        if found := _EXIT.search(text):
            loop.trips = int(found[1])
        bounds |= {name: (kind, int(limit)) for name, kind, limit in _BOUND.findall(text)}
        between |= {name: (left, right) for name, left, right in _BETWEEN.findall(text)}
        if (found := _SKIP.search(text)) and found[1] in between and loop.runs is None:
            sides = dict(bounds[side] for side in between[found[1]] if side in bounds)
            if sides.keys() == {"ge", "lt"}:
                loop.skipping, loop.runs = True, sides["lt"] - sides["ge"]
    if not whole.bundles:
        raise UnknownTextError("a kernel without instructions")
    return whole.cycles


def _lines(listing: str) -> Iterator[tuple[str, int, str]]:
    """Yields (mark, number of loops around it, text) of the bundles below a key of marks."""
    is_open = False  # whether a comment continues a bundle on the next lines
    for line in listing.partition(_KEY)[2].splitlines():
        found = _LINE.match(line)
        if found:
            yield found["mark"] or "", len(found["loops"]), found["text"]
        elif line.strip() and not is_open:
            raise UnknownTextError(f"the line {line.strip()[:100]!r} of a kernel")
        is_open = (is_open or bool(found)) and "}" not in line
