"""Operations in the text of a compiled program, and how often each computation runs.

XLA's cost analysis counts the body of a loop once; here it counts once for each iteration. A loop's
counter goes from a constant to another one, in steps of 1 (`jax.lax.scan`) or 2 (loops that the
compiler unrolls once).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

# Bytes of one element.
_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of the program on one device.

    `fast`: whether it is in the chip's vector memory, not in main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        return _BYTES.get(self.dtype, 0) * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction.

    result: its output array, or the arrays of its output tuple.
    operands: names of the instructions that it reads.
    called: {role: name of a computation that it calls}.
    text: its attributes, the text after the operands.
    """

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    called: dict[str, str]
    text: str
    is_root: bool


@dataclasses.dataclass(frozen=True)
class _Scalar:
    """Element `place` of a loop's tuple, plus `offset`; the constant `offset` if place is None."""

    place: int | None
    offset: int


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: {computation: {name: operation}}, and the name of the entry computation."""

    computations: dict[str, dict[str, Operation]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Module:
        """Parses the result of `jax.stages.Compiled.as_text`."""
        computations: dict[str, dict[str, Operation]] = {}
        entry, current = "", None
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = computations.setdefault(found[1], {})
                entry = found[1] if line.startswith("ENTRY") else entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (operation := _operation(line)):
                current[operation.name] = operation
        return cls(computations, entry)

    def runs(self) -> Iterator[tuple[str, int]]:
        """Yields (computation, runs in one call) for the entry and the computations it calls.

        Computations of fusions are not among them: they are parts of the fusion operation.
        """
        waiting = [(self.entry, 1)]
        while waiting:
            name, times = waiting.pop()
            yield name, times
            for operation in self.computations[name].values():
                if operation.opcode == "while":
                    trips = self.trips(operation, self.computations[name])
                    waiting.append((operation.called["body"], times * trips))
                elif operation.opcode in ("call", "async-start", "conditional"):
                    waiting.extend((called, times) for called in operation.called.values())

    def trips(self, loop: Operation, around: dict[str, Operation]) -> int:
        """Returns the number of iterations of a loop.

        Args:
          loop: the `while` operation.
          around: the computation that it is in.

        Raises:
          ValueError: its counter's limit or increment is not a constant.
        """
        if found := re.search(r'known_trip_count[^0-9}]*"?(\d+)', loop.text):
            return int(found[1])
        condition, body = (self.computations[loop.called[part]] for part in ("condition", "body"))
        compared, (counter, limit) = self._compared(condition)
        if counter.place is None or limit.place is not None or "direction=LT" not in compared.text:
            raise ValueError(f"the condition of the loop {loop.name} is unknown")
        after = self._scalar(_root(body).operands[counter.place], body)
        before = self._scalar(around[loop.operands[0]].operands[counter.place], around)
        if after.place != counter.place or before.place is not None:
            raise ValueError(f"the counter of the loop {loop.name} is unknown")
        return math.ceil((limit.offset - counter.offset - before.offset) / after.offset)

    def _compared(self, condition: dict[str, Operation]) -> tuple[Operation, list[_Scalar]]:
        """Returns the comparison of a loop's condition, and its two sides."""
        root = _root(condition)
        sides = [self._scalar(name, condition) for name in root.operands]
        if root.opcode == "fusion":
            inner = self.computations[root.called["calls"]]
            root = _root(inner)
            sides = [self._scalar(name, inner, sides) for name in root.operands]
        return root, sides

    def _scalar(
        self, name: str, computation: dict[str, Operation], given: Sequence[_Scalar] = ()
    ) -> _Scalar:
        """Returns an integer of a loop; `given` are the values of the computation's parameters.

        Raises:
          ValueError: the operation is not one of those that make a counter.
        """
        operation = computation[name]
        number = re.match(r"(-?\d+)\)", operation.text)
        values = [
            self._scalar(operand, computation, given)
            for operand in operation.operands
            if operation.opcode in ("add", "copy", "fusion")
        ]
        match operation.opcode:
            case "constant" if number:
                return _Scalar(None, int(number[1]))
            case "parameter" if number and given:
                return given[int(number[1])]
            case "get-tuple-element" if found := re.search(r"index=(\d+)", operation.text):
                return _Scalar(int(found[1]), 0)
            case "copy":
                return values[0]
            case "add" if values[0].place is None or values[1].place is None:
                left, right = values
                place = right.place if left.place is None else left.place
                return _Scalar(place, left.offset + right.offset)
            case "fusion":
                inner = self.computations[operation.called["calls"]]
                return self._scalar(_root(inner).name, inner, values)
        raise ValueError(f"{name} is not the counter of a loop")

    def inside(self, operation: Operation) -> Iterator[Operation]:
        """Yields an operation and, for a fusion, all operations in it."""
        yield operation
        called = operation.called.get("calls")
        if called is not None:
            for inner in self.computations[called].values():
                yield from self.inside(inner)


def _root(computation: dict[str, Operation]) -> Operation:
    (root,) = (operation for operation in computation.values() if operation.is_root)
    return root


def _operation(line: str) -> Operation | None:
    head = _OPERATION.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    found = _OPCODE.search(rest)
    if found is None:
        return None
    opcode, start = found[1], found.end()
    end = _closing(rest, start)
    literal = opcode in ("constant", "parameter")  # a value or an index, not an operand
    attributes = rest[start:] if literal else rest[end:]
    return Operation(
        name=head[2],
        opcode=opcode,
        result=tuple(_arrays(rest[: found.start()])),
        operands=tuple(_NAME.findall(rest[start:end])),
        called=dict(_CALLED.findall(attributes)),
        text=attributes,
        is_root=bool(head[1]),
    )


def _closing(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def _arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in _ARRAY.findall(text):
        if dtype in _BYTES:
            sizes = tuple(int(n) for n in shape.split(",")) if shape else ()
            yield Array(dtype, sizes, fast="S(1)" in layout)
