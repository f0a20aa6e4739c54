"""Number of iterations of a loop.

Its counter goes from a constant to another one, in steps of 1 (`jax.lax.scan`) or 2 (loops that the
compiler unrolls once).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from xkd_jax.planning.hlo_text.arrays import UnknownTextError
from xkd_jax.planning.hlo_text.computation import Computation, root
from xkd_jax.planning.hlo_text.operation import Operation

_Program = dict[str, Computation]


@dataclasses.dataclass(frozen=True)
class _Scalar:
    """Element `place` of a loop's tuple, plus `offset`; the constant `offset` if place is None."""

    place: int | None
    offset: int


def trips(program: _Program, loop: Operation, around: Computation) -> int:
    """Returns the number of iterations of a loop.

    Args:
      program: all computations.
      loop: the `while` operation.
      around: the computation that it is in.

    Raises:
      UnknownTextError: its counter's limit or increment is not a constant.
    """
    if loop.trip_count is not None:
        return loop.trip_count
    condition, body = (program[loop.called[part]] for part in ("condition", "body"))
    compared, (counter, limit) = _compared(program, condition)
    if counter.place is None or limit.place is not None or compared.direction != "LT":
        raise UnknownTextError(f"the condition of the loop {loop.name}")
    after = _scalar(program, root(body).operands[counter.place], body)
    before = _scalar(program, around[loop.operands[0]].operands[counter.place], around)
    if after.place != counter.place or before.place is not None:
        raise UnknownTextError(f"the counter of the loop {loop.name}")
    return math.ceil((limit.offset - counter.offset - before.offset) / after.offset)


def _compared(program: _Program, condition: Computation) -> tuple[Operation, list[_Scalar]]:
    """Returns the comparison of a loop's condition, and its two sides."""
    last = root(condition)
    sides = [_scalar(program, name, condition) for name in last.operands]
    if last.opcode == "fusion":
        inner = program[last.called["calls"]]
        last = root(inner)
        sides = [_scalar(program, name, inner, sides) for name in last.operands]
    return last, sides


def _scalar(
    program: _Program, name: str, computation: Computation, given: Sequence[_Scalar] = ()
) -> _Scalar:
    """Returns an integer of a loop; `given` are the values of the computation's parameters.

    Raises:
      UnknownTextError: the operation is not one of those that make a counter.
    """
    operation = computation[name]
    values = [
        _scalar(program, operand, computation, given)
        for operand in operation.operands
        if operation.opcode in ("add", "copy", "fusion")
    ]
    match operation.opcode:
        case "constant":
            return _Scalar(None, operation.number)
        case "parameter" if given:
            return given[operation.number]
        case "get-tuple-element":
            return _Scalar(operation.tuple_index, 0)
        case "copy":
            return values[0]
        case "add" if values[0].place is None or values[1].place is None:
            left, right = values
            place = right.place if left.place is None else left.place
            return _Scalar(place, left.offset + right.offset)
        case "fusion":
            inner = program[operation.called["calls"]]
            return _scalar(program, root(inner).name, inner, values)
    raise UnknownTextError(f"the counter {name} of a loop")
