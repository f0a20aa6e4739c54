"""Estimates of a step's duration: by peak rates (roofline), and by the compiler's cycles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from jax.sharding import Mesh

from xkd_jax.planning.chips import Chip
from xkd_jax.planning.costs import Costs, Work
from xkd_jax.planning.targets import Target


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Seconds of a step's operations by the compiler's model of the chip.

    operations: XLA's, by the cycles that it estimates.
    kernels: by their instructions.
    rest: operations and kernels without cycles, by the roofline.
    """

    operations: float
    kernels: float
    rest: float

    @property
    def chip(self) -> float:
        return self.operations + self.kernels + self.rest


@dataclasses.dataclass(frozen=True)
class Step:
    """Durations of a step on each chip, in seconds.

    compute, memory: if only the matrix unit, or only the memory, limited it.
    chip: each operation limited by the slower of the two.
    hidden, exposed: collectives that overlap with other operations, and those that do not.
    compiled: the same operations on the compiler's scale; None if it has none.
    """

    compute: float
    memory: float
    chip: float
    hidden: float
    exposed: float
    compiled: Compiled | None = None

    @property
    def seconds(self) -> float:
        """The least duration, by the roofline."""
        return self._with_network(self.chip)

    @property
    def compiled_seconds(self) -> float:
        """The duration by the compiler's cycles."""
        assert self.compiled is not None
        return self._with_network(self.compiled.chip)

    def _with_network(self, chip: float) -> float:
        return max(chip, self.hidden) + self.exposed

    @property
    def bound(self) -> str:
        """The resource that takes longest, by the roofline."""
        network = self.hidden + self.exposed
        largest = max(self.compute, self.memory, network)
        if largest == network:
            return "the network"
        return "the matrix unit" if largest == self.compute else "memory"


def predict(costs: Costs, where: Target, mesh: Mesh) -> Step:
    """Returns the durations, without kernel launches and hosts."""
    chip = where.chip
    memory = costs.bytes / chip.bandwidth
    working = [work for work in costs.work if not work.asynchronous]
    times = {
        flag: sum(
            c.times * where.collective_seconds(c, mesh)
            for c in costs.collectives
            if c.asynchronous is flag
        )
        for flag in (True, False)
    }
    return Step(
        compute=sum(w.times * w.passes for w in costs.work) / chip.flops,
        memory=memory,
        chip=max(_roofline(working, chip), memory),
        hidden=times[True],
        exposed=times[False],
        compiled=_compiled(working, chip),
    )


def _roofline(work: Iterable[Work], chip: Chip) -> float:
    return sum(w.times * max(w.passes / chip.flops, w.bytes / chip.bandwidth) for w in work)


def _compiled(work: Sequence[Work], chip: Chip) -> Compiled | None:
    clock = chip.clock
    if clock is None or all(w.cycles is None for w in work):
        return None

    def seconds(kernels: bool) -> float:
        chosen = (w for w in work if w.cycles is not None and bool(w.kernel) is kernels)
        return sum(w.times * (w.cycles or 0.0) for w in chosen) / clock

    return Compiled(
        operations=seconds(kernels=False),
        kernels=seconds(kernels=True),
        rest=_roofline((w for w in work if w.cycles is None), chip),
    )


def axes_of(group: Sequence[int], mesh: Mesh) -> str:
    """Returns the names of the mesh axes along which a group of devices extends."""
    sizes = list(mesh.shape.items())
    names = []
    stride = 1
    for name, size in reversed(sizes):
        if len({member // stride % size for member in group}) > 1:
            names.append(name)
        stride *= size
    return " x ".join(reversed(names)) or "-"
