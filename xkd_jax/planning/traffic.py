"""Bytes of main memory that the operations of a compiled program read and write.

A loop over layers slices their stacked arrays inside of fusions, and of fusions within those; only
the slices move.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from xkd_jax.planning.hlo import COLLECTIVES, Array, Module, Operation

# Operations without memory traffic, or whose traffic is counted at another operation.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call",
    "conditional", "copy-done", "slice-done", "after-all", "partition-id", "replica-id",
    "async-done", "async-update", "all-gather-done", "all-reduce-done",
    "collective-permute-done", "opt-barrier", "fusion-done",
}  # fmt: skip


_Computation = dict[str, Operation]


def traffic(module: Module, scope: _Computation, operation: Operation) -> float:
    """Bytes of main memory that an operation of the computation `scope` reads and writes."""
    if operation.opcode in _FREE or operation.opcode.removesuffix("-start") in COLLECTIVES:
        return 0.0
    if operation.opcode == "custom-call" and '"AllocateBuffer"' in operation.text:
        return 0.0
    if operation.opcode in ("copy-start", "slice-start", "slice", "dynamic-slice"):
        arrays = [a for a in operation.result if a.shape]
        source = [a for name in operation.operands[:1] for a in scope[name].result]
        moved = min(a.bytes for a in arrays)
        return moved * (not source[0].fast) + moved * (not _destination(operation).fast)
    if operation.opcode == "dynamic-update-slice":
        return 2 * _slow(scope[operation.operands[1]].result)
    if operation.opcode == "fusion":
        return _fusion(module, scope, operation, operation.result)
    if operation.opcode == "fusion-start":  # (operands, results, context)
        return _fusion(module, scope, operation, operation.result[len(operation.operands) :])
    read = sum(_slow(scope[name].result) for name in operation.operands if name in scope)
    return read + _slow(operation.result)


def _destination(operation: Operation) -> Array:
    """The destination of a copy; copy-start returns (source, destination, context)."""
    arrays = [a for a in operation.result if a.shape]
    return arrays[1] if operation.opcode.endswith("-start") and len(arrays) > 1 else arrays[0]


def _slow(arrays: Sequence[Array]) -> float:
    return sum(array.bytes for array in arrays if not array.fast)


def _fusion(
    module: Module, scope: _Computation, fusion: Operation, results: Sequence[Array]
) -> float:
    """Traffic of a fusion: slices of operands are read alone, updates of slices are in place."""
    inner = _inside(module, fusion)
    total = 0.0
    for index, name in enumerate(fusion.operands):
        if name in scope and not all(array.fast for array in scope[name].result):
            total += _read(module, inner, _parameter(inner, index))
    for index, array in enumerate(results):
        if array.shape and not array.fast:
            total += min(array.bytes, _written(module, inner, _root(inner), index))
    return total


def _inside(module: Module, fusion: Operation) -> _Computation:
    return module.computations[fusion.called["calls"]]


def _parameter(computation: _Computation, index: int) -> Operation:
    return next(
        o
        for o in computation.values()
        if o.opcode == "parameter" and int(o.text.partition(")")[0]) == index
    )


def _root(computation: _Computation) -> Operation:
    return next(o for o in computation.values() if o.is_root)


def _read(module: Module, computation: _Computation, value: Operation) -> float:
    """Bytes that a computation reads of one of its values, in the fusions inside of it too."""
    whole = sum(array.bytes for array in value.result)
    total = 0.0
    for reader in computation.values():
        if value.name not in reader.operands:
            continue
        if reader.opcode in ("dynamic-slice", "slice"):
            total += reader.result[0].bytes
        elif reader.opcode == "dynamic-update-slice" and reader.operands[0] == value.name:
            total += 0.0
        elif reader.opcode in ("bitcast", "get-tuple-element"):
            total += _read(module, computation, reader)
        elif reader.opcode == "fusion":
            inner = _inside(module, reader)
            total += sum(
                _read(module, inner, _parameter(inner, index))
                for index, name in enumerate(reader.operands)
                if name == value.name
            )
        elif not (reader.opcode == "tuple" and reader.is_root):
            return whole
    return min(total, whole)


def _written(module: Module, computation: _Computation, value: Operation, index: int) -> float:
    """Bytes written for a value, or for one of its tuple: of an update in place, its slice."""
    if value.opcode == "tuple":
        return _written(module, computation, computation[value.operands[index]], 0)
    if value.opcode == "bitcast":
        return _written(module, computation, computation[value.operands[0]], 0)
    if value.opcode == "fusion":
        inner = _inside(module, value)
        return _written(module, inner, _root(inner), index)
    if value.opcode == "get-tuple-element":
        found = re.search(r"index=(\d+)", value.text)
        assert found is not None
        return _written(module, computation, computation[value.operands[0]], int(found[1]))
    if value.opcode == "dynamic-update-slice":
        return computation[value.operands[1]].result[0].bytes
    return value.result[index].bytes if index < len(value.result) else 0.0
