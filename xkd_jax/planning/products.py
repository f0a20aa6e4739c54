"""Floating-point operations of the matrix products in a compiled program."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from xkd_jax.planning.hlo_text.computation import Computation
from xkd_jax.planning.hlo_text.operation import Operation, Window
from xkd_jax.planning.hlo_text.program import Module

_FUSED_ATTENTION, _LIBRARY_PRODUCTS = "__cudnn$fmha", "__cublas$"


def products(
    module: Module, scope: Computation, operation: Operation
) -> Iterator[tuple[str, float]]:
    """Yields (precision, operations) of each matrix product of an operation.

    The precision is `bfloat16`, or that of a product of float32 arrays: `default`, `high` or
    `highest`. Operations that a kernel's author states count as bfloat16.

    Args:
      module: the program.
      scope: the computation that names the operands.
      operation: of this computation.
    """
    if operation.opcode == "dot" or operation.target.startswith(_LIBRARY_PRODUCTS):
        yield _precision(scope, operation), _dot(scope, operation)
    elif operation.opcode == "convolution":
        yield _precision(scope, operation), _convolution(scope, operation)
    elif operation.opcode.startswith("fusion") and "calls" in operation.called:
        inner = module.computations[operation.called["calls"]]
        for part in inner.values():
            yield from products(module, inner, part)
    elif operation.target.startswith(_FUSED_ATTENTION):
        yield "bfloat16", _attention(scope, operation)
    elif (flops := operation.estimated_flops) is not None:
        yield "bfloat16", flops


def are_known(operation: Operation) -> bool:
    """Whether the products of a custom call are counted."""
    libraries = (_FUSED_ATTENTION, _LIBRARY_PRODUCTS)
    return operation.estimated_flops is not None or operation.target.startswith(libraries)


def _precision(scope: Computation, product: Operation) -> str:
    dtypes = {scope[name].result[0].dtype for name in product.operands[:2]}
    return product.precision if dtypes == {"f32"} else "bfloat16"


def _dot(scope: Computation, product: Operation) -> float:
    left = scope[product.operands[0]].result[0].shape
    return 2.0 * math.prod(product.result[0].shape) * math.prod(left[a] for a in product.contracted)


def _attention(scope: Computation, call: Operation) -> float:
    """cuDNN's attention: two products, and five in the gradient, which computes scores again."""
    size = scope[call.operands[0]].result[0].shape[-1]
    return (5 if "Backward" in call.target else 2) * 2.0 * math.prod(call.scores) * size


def _convolution(scope: Computation, product: Operation) -> float:
    out = product.result[0].shape
    left, right = (scope[name].result[0].shape for name in product.operands[:2])
    inputs, kernel, outputs = product.labels
    pairs = 1.0
    for axis in (c for c in kernel if c.isdigit()):
        window = product.window(int(axis))
        pairs *= _pairs(window, left[inputs.index(axis)], out[outputs.index(axis)])
    features = out[outputs.index("b")] * out[outputs.index("f")]
    return 2.0 * features * right[kernel.index("i")] * pairs


@functools.cache
def _pairs(window: Window, size: int, positions: int) -> int:
    """Number of (window position, tap) pairs inside the input, along one axis."""
    spread = window.input_dilation
    last = (size - 1) * spread
    return sum(
        (place := position * window.stride + tap * window.kernel_dilation - window.low_padding) >= 0
        and place <= last
        and place % spread == 0
        for position in range(positions)
        for tap in range(window.size)
    )
