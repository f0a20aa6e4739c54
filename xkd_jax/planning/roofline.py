"""How long a step must take at least, from what it does and what the chip can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from xkd_jax.planning.costs import Collective, Costs
from xkd_jax.planning.slices import Slice

# Seconds that a message takes from a chip to the next, however short it is (about a microsecond,
# "How to scale your model", Google DeepMind 2025, chapter 3).
HOP = 1e-6


@dataclasses.dataclass(frozen=True)
class Step:
    """Seconds of a step on each chip, and the parts they come from.

    compute, memory: were the chip only limited by its matrix unit, or its memory.
    chip: each operation limited by whichever of the two it needs longer.
    hidden, exposed: collectives that run beside other work, and those that all work waits for.
    """

    compute: float
    memory: float
    chip: float
    hidden: float
    exposed: float

    @property
    def seconds(self) -> float:
        return max(self.chip, self.hidden) + self.exposed

    @property
    def bound(self) -> str:
        """What takes longest."""
        network = self.hidden + self.exposed
        largest = max(self.compute, self.memory, network)
        if largest == network:
            return "the network"
        return "the matrix unit" if largest == self.compute else "memory"


def predict(costs: Costs, where: Slice, mesh: Mesh) -> Step:
    """Returns the least time of a step; no latency of kernels, vector units or hosts is in it."""
    chip = where.chip
    passes = sum(w.times * w.passes for w in costs.work) / chip.flops
    memory = costs.bytes / chip.bandwidth
    worked = sum(
        w.times * max(w.passes / chip.flops, w.bytes / chip.bandwidth)
        for w in costs.work
        if not w.asynchronous
    )
    times = {
        flag: sum(
            c.times * collective_seconds(c, where, mesh)
            for c in costs.collectives
            if c.asynchronous is flag
        )
        for flag in (True, False)
    }
    return Step(
        compute=passes,
        memory=memory,
        chip=max(worked, memory),
        hidden=times[True],
        exposed=times[False],
    )


def collective_seconds(collective: Collective, where: Slice, mesh: Mesh) -> float:
    """Seconds of one run of a collective.

    The buffer travels along every dimension of the torus that the group extends over at once: in
    both directions where the dimension is a ring that the group fills, in one where it is a line.
    """
    coordinates = [mesh.devices.flat[member].coords for member in collective.group]
    bandwidth, hops = 0.0, 0
    for dimension, size in enumerate(where.shape):
        extent = len({place[dimension] for place in coordinates})
        if extent > 1:
            ring = where.is_ring(dimension) and extent == size
            bandwidth += where.chip.link * (2 if ring else 1)
            hops += extent // 2 if ring else extent - 1
    if not bandwidth:
        return 0.0
    members = len(collective.group)
    fraction = (members - 1) / members
    if collective.kind == "all-reduce":
        return 2 * (collective.bytes * fraction / bandwidth + hops * HOP)
    if collective.kind == "all-to-all":
        # what is sent travels a quarter of a ring on average, each way
        return collective.bytes * hops / 2 / bandwidth + hops * HOP
    if collective.kind == "collective-permute":
        return collective.bytes / where.chip.link + hops * HOP
    return collective.bytes * fraction / bandwidth + hops * HOP


def axes_of(group: Sequence[int], mesh: Mesh) -> str:
    """Names of the mesh axes that a group of devices extends over."""
    sizes = list(mesh.shape.items())
    names = []
    stride = 1
    for name, size in reversed(sizes):
        if len({member // stride % size for member in group}) > 1:
            names.append(name)
        stride *= size
    return " x ".join(reversed(names)) or "-"
