"""Least duration of a step, from its costs and the chip's peak rates (roofline)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax.sharding import Mesh

from xkd_jax.planning.costs import Collective, Costs
from xkd_jax.planning.slices import Slice

# Latency in seconds between neighboring chips ("How to scale your model", Google DeepMind 2025,
# chapter 3: about a microsecond).
HOP = 1e-6


@dataclasses.dataclass(frozen=True)
class Step:
    """Durations of a step on each chip, in seconds.

    compute, memory: if only the matrix unit, or only the memory, limited it.
    chip: each operation limited by the slower of the two.
    hidden, exposed: collectives that overlap with other operations, and those that do not.
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
        """The resource that takes longest."""
        network = self.hidden + self.exposed
        largest = max(self.compute, self.memory, network)
        if largest == network:
            return "the network"
        return "the matrix unit" if largest == self.compute else "memory"


def predict(costs: Costs, where: Slice, mesh: Mesh) -> Step:
    """Returns the least duration, without kernel latencies, vector units and hosts."""
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
    """Returns the seconds of one run of a collective.

    It uses all torus dimensions of its group at once: both directions of a dimension that is a ring
    within the group, one direction of a line.
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
        # on average data travels a quarter of a ring in each direction
        return collective.bytes * hops / 2 / bandwidth + hops * HOP
    if collective.kind == "collective-permute":
        return collective.bytes / where.chip.link + hops * HOP
    return collective.bytes * fraction / bandwidth + hops * HOP


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
