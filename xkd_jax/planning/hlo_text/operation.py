"""One instruction of a program, and its attributes."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from xkd_jax.planning.hlo_text.arrays import Array, Platform, UnknownTextError, arrays

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)

# They call a computation beside others; `call-start` on a TPU's SparseCore.
ASYNC_CALLS = ("async-start", "call-start")
# What XLA writes for the cycles of an operation on a SparseCore.
_NO_CYCLES = 2**63 - 1

_HEAD = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_NAME = re.compile(r"%([\w.\-]+)")


class Labels(NamedTuple):
    """Axes of a convolution's input, kernel and output: `b`, `f`, `i`, `o`, or a spatial digit."""

    inputs: str
    kernel: str
    outputs: str


class Window(NamedTuple):
    """A convolution's window along one axis."""

    size: int
    stride: int
    low_padding: int
    input_dilation: int
    kernel_dilation: int


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction.

    result: its output array, or the arrays of its output tuple.
    operands: names of the instructions that it reads.
    called: {role: name of a computation that it calls}.
    text: its attributes, the text after the operands; of a parameter or a constant from its value.
    """

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    called: dict[str, str]
    text: str
    is_root: bool

    @classmethod
    def parse(cls, line: str, platform: Platform) -> Operation:
        """Parses a line of a computation.

        Raises:
          UnknownTextError: it is not an instruction.
        """
        head = _HEAD.match(line)
        rest = line[head.end() :] if head else ""
        found = _OPCODE.search(rest)
        if head is None or found is None:
            raise UnknownTextError(f"the line {line.strip()[:100]!r}")
        opcode, start = found[1], found.end()
        end = _closing(rest, start)
        literal = opcode in ("constant", "parameter")  # a value or an index, not an operand
        attributes = rest[start:] if literal else rest[end:]
        called = dict(_CALLED.findall(attributes))
        if branches := _BRANCHES.search(attributes):
            called |= {f"branch {i}": name for i, name in enumerate(_NAME.findall(branches[1]))}
        return cls(
            name=head[2],
            opcode=opcode,
            result=tuple(arrays(rest[: found.start()], platform)),
            operands=tuple(_NAME.findall(rest[start:end])),
            called=called,
            text=attributes,
            is_root=bool(head[1]),
        )

    @property
    def outputs(self) -> tuple[Array, ...]:
        """Arrays that it computes, without the operands and scratch that a result may have too."""
        if self.is_library_call and self.result[1:] and _is_scratch(self.result[-1]):
            return self.result[:-1]
        if not self.opcode.endswith("-start") or self.opcode in ASYNC_CALLS:
            return self.result
        if self.opcode == "copy-start":  # (output, operand, context)
            return self.result[:1]
        count = len(self.operands)  # (operands, outputs, contexts), or outputs alone
        values = list(self.result[count:] if len(self.result) > count else self.result)
        while len(values) > 1 and values[-1].dtype in ("u32", "s32") and not values[-1].shape:
            values.pop()
        return tuple(values)

    @property
    def number(self) -> int:
        """The integer of a constant, or a parameter's index."""
        return int(self._attribute(r"^(-?\d+)\)"))

    @property
    def tuple_index(self) -> int:
        """The element that `get-tuple-element` returns."""
        return int(self._attribute(r"\bindex=(\d+)"))

    @property
    def trip_count(self) -> int | None:
        """Number of iterations of a loop, if the text has it."""
        found = re.search(r'known_trip_count[^0-9}]*"?(\d+)', self.text)
        return int(found[1]) if found else None

    @property
    def direction(self) -> str:
        """Direction of a comparison: LT, GE, ..."""
        return self._attribute(r"\bdirection=([A-Z]+)")

    @property
    def target(self) -> str:
        """The function of a custom call; empty for other operations."""
        if self.opcode != "custom-call":
            return ""
        return self._attribute(r'custom_call_target="([^"]*)"')

    @property
    def is_library_call(self) -> bool:
        """Whether it calls cuBLAS, cuDNN or another library of CUDA."""
        return self.target.startswith("__cu")

    @property
    def estimated_flops(self) -> float | None:
        """The operations of one call of a kernel, as its author states them."""
        if self.opcode != "custom-call":  # of a GPU kernel, its neighbors have the attribute too
            return None
        found = re.search(r'"cost_estimate":\{"flops":"(\d+)"', self.text)
        found = found or re.search(r'frontend_attributes=\{[^}]*\bflops="(\d+)"', self.text)
        if found is None and '"cost_estimate"' in self.text:
            raise UnknownTextError(f"the cost estimate of {self.name}")
        return float(found[1]) if found else None

    @property
    def code(self) -> str:
        """Encoded program of a kernel (TPU), with its shapes; empty for other operations."""
        found = re.search(r'"custom_call_config":\{"body":"([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def cycles(self) -> float | None:
        """Cycles of one run by the compiler's estimate (TPU); None if it has none."""
        found = re.search(r'"estimated_cycles":"(-?\d+)"', self.text)
        if found is None and "estimated_cycles" in self.text:
            raise UnknownTextError(f"the estimated cycles of {self.name}")
        if found is None or int(found[1]) == _NO_CYCLES:
            return None
        return max(0.0, float(found[1]))

    @property
    def contracted(self) -> tuple[int, ...]:
        """Contracted axes of the left operand of a `dot`, or of a product by cuBLAS."""
        if self.is_library_call:
            axes = self._attribute(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]')
        else:
            axes = self._attribute(r"\blhs_contracting_dims=\{([\d,]*)\}")
        return tuple(int(n) for n in re.findall(r"\d+", axes))

    @property
    def labels(self) -> Labels:
        """Axes of a convolution."""
        found = re.search(r"\bdim_labels=(\w+)_(\w+)->(\w+)", self.text)
        if found is None:
            raise UnknownTextError(f"the axes of the convolution {self.name}")
        return Labels(*found.groups())

    def window(self, axis: int) -> Window:
        """A convolution's window along a spatial axis."""
        found = re.search(r"\bwindow=\{([^}]*)\}", self.text)
        text = found[1] if found else ""

        def first(name: str, default: int) -> int:
            value = re.search(rf"\b{name}=([\d_\-x]+)", text)
            return int(value[1].split("x")[axis].split("_")[0]) if value else default

        return Window(
            size=first("size", 1),
            stride=first("stride", 1),
            low_padding=first("pad", 0),
            input_dilation=first("lhs_dilate", 1),
            kernel_dilation=first("rhs_dilate", 1),
        )

    @property
    def precision(self) -> str:
        """Precision of a matrix product: `default`, `high` or `highest`."""
        found = re.search(r'\boperand_precision(?:=\{|":\s*\[")(\w+)', self.text)
        return found[1].lower() if found else "default"

    @property
    def scores(self) -> tuple[int, ...]:
        """Shape of the attention scores inside a cuDNN call: batch, heads, queries, keys."""
        sizes = self._attribute(
            r'"intermediate_tensor_shape":\s*\{"element_type":\s*"\w+",\s*"dimensions":\s*\[([^\]]*)\]'
        )
        return tuple(int(n) for n in re.findall(r"\d+", sizes))

    @property
    def chain(self) -> str:
        """Name that the operations of one asynchronous collective share (TPU); empty without."""
        found = re.search(r'chain_id="(\d+)"', self.text)
        return found[1] if found else ""

    @property
    def is_reduce_scatter(self) -> bool:
        """Whether it is an all-reduce that keeps only a part of the sum (TPU)."""
        return self.called.get("calls", "").startswith("all-reduce-scatter")

    @property
    def waits(self) -> bool:
        """Whether a collective that is written as asynchronous does not overlap with others."""
        return re.search(r'"is_sync":\s*true', self.text) is not None

    def _attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.text)
        if found is None:
            raise UnknownTextError(f"{self.opcode} {self.name} without {pattern}")
        return found[1]


def _is_scratch(array: Array) -> bool:
    return array.dtype in ("s8", "u8") and len(array.shape) == 1


def _closing(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise UnknownTextError(f"parentheses in {text[:100]!r}")
