"""Costs of a compiled step on each device: operations, memory traffic and collectives."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from xkd_jax.planning.hlo import COLLECTIVES, Module, Operation
from xkd_jax.planning.traffic import traffic

# Passes of the bfloat16 matrix unit that one float32 product of this precision takes.
PASSES = {"default": 1, "high": 3, "highest": 6}


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
        fraction = (len(self.group) - 1) / len(self.group)
        passes = {"all-reduce": 2 * fraction, "collective-permute": 1.0}.get(self.kind, fraction)
        return self.times * self.bytes * passes


@dataclasses.dataclass(frozen=True)
class Work:
    """One operation on a device.

    flops: floating-point operations of its matrix products.
    passes: the same, times the passes of the matrix unit that their precision needs.
    bytes: main memory read and written.
    times: number of runs in a step.
    asynchronous: whether it overlaps with other operations.
    """

    flops: float
    passes: float
    bytes: float
    times: int
    asynchronous: bool


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of all operations and collectives of one step on one device."""

    work: tuple[Work, ...]
    collectives: tuple[Collective, ...]

    @classmethod
    def of(cls, text: str) -> Costs:
        """Reads the text of a compiled program (`jax.stages.Compiled.as_text`).

        Raises:
          ValueError: an operation is written in an unknown way.
        """
        module = Module.parse(text)
        work: list[Work] = []
        found: dict[str, Collective] = {}
        for computation, times in module.runs():
            operations = module.computations[computation]
            for operation in operations.values():
                for collective in _collectives(module, operation, times):
                    # an asynchronous collective is several operations with one chain_id
                    found.setdefault(*collective)
                work.append(_work(module, operations, operation, times))
        return cls(
            work=tuple(w for w in work if w.flops or w.bytes),
            collectives=tuple(found.values()),
        )

    @property
    def flops(self) -> float:
        """Floating-point operations of matrix products and convolutions."""
        return sum(w.times * w.flops for w in self.work)

    @property
    def bytes(self) -> float:
        """Bytes of main memory read and written."""
        return sum(w.times * w.bytes for w in self.work)


def _work(
    module: Module, operations: dict[str, Operation], operation: Operation, times: int
) -> Work:
    flops = passes = 0.0
    for scope, inner in _products(module, operations, operation):
        count = _product_flops(scope, inner)
        flops += count
        passes += count * _passes(scope, inner)
    if estimate := re.search(r'"cost_estimate":\{"flops":"(\d+)"', operation.text):
        flops = passes = float(estimate[1])  # of a kernel, by its author
    return Work(
        flops=flops,
        passes=passes,
        bytes=traffic(module, operations, operation),
        times=times,
        asynchronous=operation.opcode in ("copy-start", "slice-start"),
    )


def _products(
    module: Module, scope: dict[str, Operation], operation: Operation
) -> Iterator[tuple[dict[str, Operation], Operation]]:
    """Matrix products of an operation, with the computation that names their operands."""
    if operation.opcode in ("convolution", "dot"):
        yield scope, operation
    elif operation.opcode in ("fusion", "fusion-start"):
        inner = module.computations[operation.called["calls"]]
        for part in inner.values():
            yield from _products(module, inner, part)


def _product_flops(scope: dict[str, Operation], product: Operation) -> float:
    out = product.result[0].shape
    left, right = (scope[name].result[0].shape for name in product.operands[:2])
    if product.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", product.text)
        axes = [int(n) for n in contracted[1].split(",")] if contracted and contracted[1] else []
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.text)
    if labels is None:
        raise ValueError(f"convolution without dim_labels: {product.text[:200]}")
    inputs, kernel, outputs = labels[1], labels[2], labels[3]
    pairs = 1.0
    for axis in (c for c in kernel if c.isdigit()):
        pairs *= _window_pairs(
            product.text, int(axis), left[inputs.index(axis)], out[outputs.index(axis)]
        )
    features = out[outputs.index("b")] * out[outputs.index("f")]
    return 2.0 * features * right[kernel.index("i")] * pairs


def _window_pairs(text: str, axis: int, size: int, positions: int) -> int:
    """Number of (window position, tap) pairs inside the input, along one axis."""

    def field(name: str, default: int) -> list[int]:
        found = re.search(rf"\b{name}=([\d_\-x]+)", window)
        values = found[1].split("x")[axis] if found else str(default)
        return [int(n) for n in values.split("_")]

    found = re.search(r"window=\{([^}]*)\}", text)
    window = found[1] if found else ""
    taps, stride = field("size", 1)[0], field("stride", 1)[0]
    low = field("pad", 0)[0]
    spread, dilation = field("lhs_dilate", 1)[0], field("rhs_dilate", 1)[0]
    return _pairs(taps, stride, low, spread, dilation, size, positions)


@functools.cache
def _pairs(
    taps: int, stride: int, low: int, spread: int, dilation: int, size: int, positions: int
) -> int:
    last = (size - 1) * spread
    return sum(
        0 <= (place := position * stride + tap * dilation - low) <= last and place % spread == 0
        for position in range(positions)
        for tap in range(taps)
    )


def _passes(scope: dict[str, Operation], product: Operation) -> int:
    dtypes = {scope[name].result[0].dtype for name in product.operands[:2]}
    found = re.search(r"operand_precision=\{(\w+)", product.text)
    return PASSES[found[1]] if found and dtypes == {"f32"} else 1


def _collectives(
    module: Module, operation: Operation, times: int
) -> Iterator[tuple[str, Collective]]:
    """Yields (name of its chain, collective) for each collective of an operation."""
    for part in module.inside(operation):
        kind = part.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        chain = re.search(r'chain_id="(\d+)"', part.text)
        scattered = operation.called.get("calls", "").startswith("all-reduce-scatter")
        yield (
            f"chain {chain[1]}" if chain else f"{operation.name} {part.name}",
            Collective(
                kind="reduce-scatter" if scattered else kind,
                bytes=_buffer(part, kind),
                group=first_group(part.text),
                asynchronous=bool(chain) or part.opcode.endswith("-start"),
                times=times,
            ),
        )


def _buffer(part: Operation, kind: str) -> float:
    arrays = [array for array in part.result if array.shape]
    if kind in ("all-gather", "collective-permute") and part.opcode.endswith("-start"):
        arrays = arrays[len(arrays) // 2 :]  # (operands, results)
    total = sum(array.bytes for array in arrays)
    return total * len(first_group(part.text)) if kind == "reduce-scatter" else total


def first_group(text: str) -> tuple[int, ...]:
    """The first device group of a collective, in each of XLA's notations."""
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text):
        return int(found[1]), int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return tuple(int(n) for n in found[1].split(","))
    if found := _MESH.search(text):
        return _mesh_group(found["mesh"], found["split"], found["shape"], found["order"])
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return tuple(_counted(found[3], found[4])[: int(found[2])].tolist())
    raise ValueError(f"collective without a group: {text[:300]}")


# mesh['data'=2,'fsdp'=4] {'fsdp'}; with device_ids=([4,2]T(1,0)) if devices are not in order
_MESH = re.compile(
    r"replica_groups=mesh\[(?P<mesh>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))?"
    r"\s*\{(?P<split>[^}]*)\}"
)


def _mesh_group(mesh: str, split: str, shape: str | None, order: str | None) -> tuple[int, ...]:
    """The devices along the axes in `split`, at index 0 of all other axes."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    chosen = re.findall(r"'(\w+)'", split)
    devices = _counted(shape or str(math.prod(sizes.values())), order).reshape([*sizes.values()])
    group = devices[tuple(slice(None) if name in chosen else 0 for name in sizes)]
    return tuple(sorted(group.ravel().tolist()))


def _counted(shape: str, order: str | None) -> np.ndarray:
    """Flattened `arange` of the shape with axes in `order`: XLA's notation [shape]T(order)."""
    sizes = [int(n) for n in shape.split(",")]
    axes = [int(n) for n in order.split(",")] if order else None
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(axes).ravel()
