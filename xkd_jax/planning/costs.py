"""Costs of a compiled step on each device: operations, memory traffic and collectives."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

from xkd_jax.planning import listings, products
from xkd_jax.planning.hlo_text.arrays import Platform, UnknownTextError
from xkd_jax.planning.hlo_text.computation import Computation
from xkd_jax.planning.hlo_text.groups import between_slices, first_group
from xkd_jax.planning.hlo_text.operation import COLLECTIVES, Operation
from xkd_jax.planning.hlo_text.program import Module
from xkd_jax.planning.traffic import is_mark, traffic


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    kind: one of `COLLECTIVES`.
    bytes: size of the whole buffer on a device (gathered, reduced, or before it is scattered).
    group: the first device's group, as indices in the flattened mesh.
    asynchronous: whether it overlaps with other operations.
    times: number of runs in a step.
    """

    kind: str
    bytes: float
    group: tuple[int, ...]
    asynchronous: bool
    times: int

    @property
    def received(self) -> float:
        """Bytes that a device receives in a step."""
        return self.times * self.received_by(len(self.group))

    def received_by(self, parts: float) -> float:
        """Returns the bytes that each of equal parts of the group receives in one run.

        Args:
          parts: their number: devices, or hosts that receive once for all of their devices.
        """
        fraction = (parts - 1) / parts
        passes = {"all-reduce": 2 * fraction, "collective-permute": 1.0}.get(self.kind, fraction)
        return self.bytes * passes


@dataclasses.dataclass(frozen=True)
class Work:
    """One operation on a device.

    flops: floating-point operations of its matrix products.
    passes: the same, times the passes of the matrix unit that their precision needs.
    bytes: main memory read and written.
    times: number of runs in a step.
    asynchronous: whether it overlaps with other operations.
    cycles: of one run (TPU): the compiler's estimate, or a kernel's instructions; None if unknown.
    kernel: name of a kernel that this project or a library wrote; empty for XLA's operations.
    code: of a kernel (TPU); calls of the same code have one listing.
    """

    flops: float
    passes: float
    bytes: float
    times: int
    asynchronous: bool
    cycles: float | None = None
    kernel: str = ""
    code: str = ""


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of all operations and collectives of one step on one device.

    unknown: {function: runs in a step} of library calls whose matrix products are not known.
    """

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]
    unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, text: str, platform: Platform, passes: Mapping[str, float]) -> Costs:
        """Reads the text of a compiled program (`jax.stages.Compiled.as_text`).

        Args:
          text: the program.
          platform: that it is compiled for.
          passes: {precision of a float32 product: passes of the matrix unit}.

        Raises:
          UnknownTextError: a part of it is written in an unknown way.
        """
        try:
            return cls._of(Module.parse(text, platform), passes)
        except (LookupError, StopIteration) as error:
            # it lacks a name, an axis or an index of the known form
            raise UnknownTextError(f"{type(error).__name__} {error} in the program") from error

    @classmethod
    def _of(cls, module: Module, passes: Mapping[str, float]) -> Costs:
        work: list[Work] = []
        found: dict[str, Collective] = {}
        unknown: Counter[str] = Counter()
        for computation, times, overlaps in module.runs():
            operations = module.computations[computation]
            for operation in operations.values():
                for name, collective in _collectives(module, operation, times, overlaps):
                    # an asynchronous collective is several operations with one chain
                    found.setdefault(name, collective)
                work.append(_work(module, operations, operation, times, overlaps, passes))
                target = operation.target
                if target and not is_mark(operation) and not products.are_known(operation):
                    unknown[target] += times
        return cls(
            work=tuple(w for w in work if w.flops or w.bytes or w.cycles),
            collectives=tuple(found.values()),
            unknown=dict(unknown),
        )

    def with_listings(self) -> Costs:
        """Returns these costs, with the cycles of kernels whose listings the compiler wrote.

        Of several calls of the same code, it writes a listing for one.
        """
        found = listings.cycles(w.kernel for w in self.work if w.kernel)
        known = {w.code or w.kernel: found[w.kernel] for w in self.work if w.kernel in found}
        work = (
            dataclasses.replace(w, cycles=known.get(w.code or w.kernel, w.cycles))
            for w in self.work
        )
        return dataclasses.replace(self, work=tuple(work))

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products and convolutions."""
        return sum(w.times * w.flops for w in self.work)

    @property
    def bytes(self) -> float:
        """Bytes of main memory read and written."""
        return sum(w.times * w.bytes for w in self.work)


def _work(
    module: Module, scope: Computation, operation: Operation, times: int, overlaps: bool,
    passes: Mapping[str, float],
) -> Work:  # fmt: skip
    counted = list(products.products(module, scope, operation))
    known = bool(operation.target) and products.are_known(operation)
    return Work(
        flops=sum(flops for _, flops in counted),
        passes=sum(passes.get(precision, 1.0) * flops for precision, flops in counted),
        bytes=traffic(module, scope, operation),
        times=times,
        asynchronous=overlaps or operation.opcode.endswith("-start"),
        cycles=operation.cycles,
        kernel=operation.name if known else "",
        code=operation.code if known else "",
    )


def _collectives(
    module: Module, operation: Operation, times: int, overlaps: bool
) -> Iterator[tuple[str, Collective]]:
    """Yields (name of its chain, collective) for each collective of an operation."""
    for part in module.inside(operation):
        kind = part.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            group = first_group(part.text)
            asynchronous = bool(part.chain) or part.opcode.endswith("-start") or overlaps
            asynchronous = asynchronous and not part.waits
        elif part.opcode == "send" and (found := between_slices(part.text)):
            (kind, group), asynchronous = found, True
        else:
            continue
        if operation.is_reduce_scatter:
            kind = "reduce-scatter"
        name = f"chain {part.chain}" if part.chain else f"{operation.name} {part.name}"
        size = _buffer(part, len(group))
        yield name, Collective(kind, size, group, asynchronous, times)


def _buffer(part: Operation, members: int) -> float:
    total = sum(array.bytes for array in part.outputs if array.shape)
    return total * members if part.opcode.startswith("reduce-scatter") else total
