"""Floating-point operations of a function's matrix products, counted in its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Returns multiplications + additions of all matrix products of a call, over all devices.

    The body of a scan counts once for each iteration, and rematerialized products count again.
    Other operations (norms, softmax, augmentation) are a few percent and not counted.

    Args:
      function: a function that `jax.jit` accepts, or a jitted one.
      args: its arguments, or their `jax.ShapeDtypeStruct`s.
    """
    # a function with compiler options can't be traced inside of another one
    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    return _jaxpr_flops(jitted.trace(*args).jaxpr.jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    """Counts the equations that a result depends on: compilers remove the others."""
    needed = {id(variable) for variable in jaxpr.outvars}
    total = 0.0
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed.update(id(variable) for variable in equation.invars)
            total += _equation_flops(equation)
    return total


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _product_flops(equation)
    if name == "cond":
        return max(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
    inner = sum(_jaxpr_flops(jaxpr) for jaxpr in _inner(params))
    return params["length"] * inner if name == "scan" else inner


def _product_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    products = math.prod(equation.outvars[0].aval.shape)
    return 2.0 * products * math.prod(left[axis] for axis in contracted)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr") and hasattr(item.jaxpr, "eqns"):
                yield item.jaxpr
