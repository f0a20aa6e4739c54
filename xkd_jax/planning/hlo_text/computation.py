"""A computation: its operations by their name."""

from __future__ import annotations

from xkd_jax.planning.hlo_text.operation import Operation

Computation = dict[str, Operation]


def root(computation: Computation) -> Operation:
    """Returns the operation whose result is the computation's."""
    return next(operation for operation in computation.values() if operation.is_root)


def parameter(computation: Computation, index: int) -> Operation:
    """Returns a parameter of a computation."""
    return next(
        operation
        for operation in computation.values()
        if operation.opcode == "parameter" and operation.number == index
    )
