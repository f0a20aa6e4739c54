"""Bytes of main memory that the operations of a compiled program read and write.

A loop over layers slices their stacked arrays inside of fusions, and of fusions within those; only
the slices move. Arrays count with the padding of their tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from xkd_jax.planning.hlo_text.arrays import Array, UnknownTextError
from xkd_jax.planning.hlo_text.computation import Computation, parameter, root
from xkd_jax.planning.hlo_text.operation import ASYNC_CALLS, COLLECTIVES, Operation
from xkd_jax.planning.hlo_text.program import Module

# Operations without memory traffic, or whose traffic is counted at another operation or link.
_FREE = frozenset((
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call",
    "conditional", "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency",
    "domain", "get-dimension-size", *ASYNC_CALLS, "send", "recv", "infeed", "outfeed",
))  # fmt: skip
# Operations that read their operands and write their results.
_WHOLE = frozenset((
    "abs", "acos", "acosh", "add", "and", "asin", "asinh", "atan2", "atanh", "batch-norm-grad",
    "batch-norm-inference", "batch-norm-training", "bitcast-convert", "broadcast", "cbrt", "ceil",
    "cholesky", "clamp", "compare", "complex", "concatenate", "convert", "convolution", "copy",
    "cosine", "cosh", "count-leading-zeros", "custom-call", "divide", "dot", "erf", "exponential",
    "exponential-minus-one", "fft", "floor", "gather", "imag", "iota", "is-finite", "log",
    "log-plus-one", "logistic", "map", "maximum", "minimum", "multiply", "negate", "not", "or",
    "pad", "popcnt", "power", "ragged-dot", "real", "reduce", "reduce-precision", "reduce-window",
    "remainder", "reshape", "reverse", "rng", "rng-bit-generator", "rng-get-and-update-state",
    "round-nearest-afz", "round-nearest-even", "rsqrt", "scatter", "select", "select-and-scatter",
    "shift-left", "shift-right-arithmetic", "shift-right-logical", "sign", "sine", "sinh", "sort",
    "sqrt", "stochastic-convert", "subtract", "tan", "tanh", "topk", "transpose",
    "triangular-solve", "xor",
))  # fmt: skip
_SLICES = ("slice", "dynamic-slice")
_MARKS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveStart", "AsyncCollectiveDone")


def traffic(module: Module, scope: Computation, operation: Operation) -> float:
    """Bytes of main memory that an operation of the computation `scope` reads and writes.

    Raises:
      UnknownTextError: XLA has an operation that this function does not know.
    """
    opcode = operation.opcode.removesuffix("-start").removesuffix("-done").removesuffix("-update")
    done = operation.opcode.endswith(("-done", "-update"))
    if done or operation.opcode in _FREE or _is_network(operation):
        return 0.0
    if opcode in _SLICES:
        moved = sum(array.bytes for array in operation.outputs)
        source = scope[operation.operands[0]].result
        return moved * bool(_slow(source)) + _slow(operation.outputs)
    if opcode == "dynamic-update-slice":
        return 2 * _slow(scope[operation.operands[1]].result)
    if opcode == "fusion":
        return _fusion(module, scope, operation)
    if opcode not in _WHOLE:
        raise UnknownTextError(f"the operation {operation.opcode}")
    read = sum(_slow(scope[name].result) for name in operation.operands if name in scope)
    return read + _slow(operation.outputs)


def is_mark(operation: Operation) -> bool:
    """Whether a custom call only reserves memory, or marks where a collective begins or ends."""
    return operation.target in _MARKS


def _is_network(operation: Operation) -> bool:
    """Whether it is a collective, whose bytes count at the links, or a mark, which has none."""
    return operation.opcode.removesuffix("-start") in COLLECTIVES or is_mark(operation)


def _slow(arrays: Sequence[Array]) -> float:
    return sum(array.bytes for array in arrays if not array.fast)


def _fusion(module: Module, scope: Computation, fusion: Operation) -> float:
    """Traffic of a fusion: slices of operands are read alone, updates of slices are in place."""
    inner = _inside(module, fusion)
    total = 0.0
    for index, name in enumerate(fusion.operands):
        if name in scope and not all(array.fast for array in scope[name].result):
            total += _read(module, inner, parameter(inner, index))
    for index, array in enumerate(fusion.outputs):
        if not array.fast:
            total += min(array.bytes, _written(module, inner, root(inner), index))
    return total


def _inside(module: Module, fusion: Operation) -> Computation:
    return module.computations[fusion.called["calls"]]


def _read(module: Module, computation: Computation, value: Operation) -> float:
    """Bytes that a computation reads of one of its values, including the fusions in it."""
    whole = sum(array.bytes for array in value.result)
    total = 0.0
    for reader in computation.values():
        if value.name not in reader.operands or _is_network(reader):
            continue
        if reader.opcode in _SLICES:
            total += reader.result[0].bytes
        elif reader.opcode == "dynamic-update-slice" and reader.operands[0] == value.name:
            total += 0.0
        elif reader.opcode in ("bitcast", "get-tuple-element"):
            total += _read(module, computation, reader)
        elif reader.opcode == "fusion":
            inner = _inside(module, reader)
            total += sum(
                _read(module, inner, parameter(inner, index))
                for index, name in enumerate(reader.operands)
                if name == value.name
            )
        elif not (reader.opcode == "tuple" and reader.is_root):
            return whole
    return min(total, whole)


def _written(module: Module, computation: Computation, value: Operation, index: int) -> float:
    """Bytes written for a value, or for one of a tuple; an update in place writes its slice.

    An operation beside which a collective proceeds also returns the collective's buffers: as it got
    them, or as the collective left them.
    """
    if value.opcode == "parameter" or _is_network(value):
        return 0.0
    if value.opcode == "tuple":
        for name in value.operands:  # each is an array, or a tuple of arrays
            part = computation[name]
            if index < len(part.result):
                return _written(module, computation, part, index)
            index -= len(part.result)
        raise UnknownTextError(f"the arrays of the tuple {value.name}")
    if value.opcode == "bitcast":
        return _written(module, computation, computation[value.operands[0]], 0)
    if value.opcode == "fusion":
        inner = _inside(module, value)
        return _written(module, inner, root(inner), index)
    if value.opcode == "get-tuple-element":
        return _written(module, computation, computation[value.operands[0]], value.tuple_index)
    if value.opcode == "dynamic-update-slice":
        return computation[value.operands[1]].result[0].bytes
    return value.outputs[index].bytes if index < len(value.outputs) else 0.0
