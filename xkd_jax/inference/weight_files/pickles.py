"""Reading of pickles in PyTorch's files without Python's unpickler, which calls named functions.

`pickletools` parses the instructions without executing them. Those that build plain values are
interpreted here; a call reaches only functions that the reader of the format provides by name.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xkd_jax.inference.weight_files.tensors import WeightFileError

# Largest size of a pickle; those of the largest networks have a few megabytes.
MOST_BYTES = 64 * 2**20
_MOST_INSTRUCTIONS = 2 * 10**6

Global = tuple[str, str]
_Key = (str, int, float, bool, bytes, type(None))  # others are hashed by their content


class Inert:
    """A placeholder of an object that is not needed."""


class Callee:
    """A replacement of a function or class that a pickle names."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call


class _Mark:
    pass


_MARK = _Mark()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": Inert,
}  # fmt: skip
# Instructions whose argument is the value.
_LITERALS = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
))  # fmt: skip
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """Interprets the instructions of one pickle."""

    def __init__(self, known: Mapping[Global, Any], persistent: Callable[[Any], Any]):
        """Sets the values of the pickle's names.

        Args:
          known: {(module, name): value}; only a `Callee` can be called; others are `Inert`.
          persistent: returns the value of a persistent id, by which a pickle refers to a storage.
        """
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, file: io.BytesIO) -> Any:
        """Returns the value of the pickle at the file's position, and moves it to the pickle's end.

        Raises:
          WeightFileError: it is not a pickle of plain values.
        """
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if number == _MOST_INSTRUCTIONS:
                    raise WeightFileError(f"its pickle has more than {number:,} instructions")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except WeightFileError:
            raise
        except Exception as error:
            # damaged bytes raise many types in the parser and in instructions
            raise WeightFileError(f"its pickle is damaged ({type(error).__name__})") from None
        raise WeightFileError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        elif name in _FIXED_TUPLES:
            count = _FIXED_TUPLES[name]
            self._stack.append(tuple(reversed([self._pop() for _ in range(count)])))
        elif (step := _STEPS.get(name)) is not None:
            step(self, argument)
        else:
            raise WeightFileError(
                f"its pickle has {name}, an instruction that PyTorch does not write"
            )

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise WeightFileError("its pickle uses a mark as a value")
        return value

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is _MARK:
            raise WeightFileError("its pickle uses a mark as a value")
        return value

    def _items(self) -> list[Any]:
        """Pops the items above the last mark, and the mark."""
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        items.reverse()
        return items

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _nothing(self, _: Any) -> None:
        pass

    def _drop(self, _: Any) -> None:
        self._stack.pop()

    def _drop_items(self, _: Any) -> None:
        self._items()

    def _double(self, _: Any) -> None:
        self._stack.append(self._top())

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._items()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._items())

    def _dict(self, _: Any) -> None:
        items = self._items()
        target: dict[Any, Any] = {}
        _set(target, items)
        self._stack.append(target)

    def _inert_items(self, _: Any) -> None:
        self._items()
        self._stack.append(Inert())

    def _append(self, _: Any) -> None:
        value, target = self._pop(), self._top()
        if isinstance(target, list):
            target.append(value)

    def _appends(self, _: Any) -> None:
        items, target = self._items(), self._top()
        if isinstance(target, list):
            target.extend(items)

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _set(self._top(), [key, value])

    def _set_items(self, _: Any) -> None:
        items = self._items()
        _set(self._top(), items)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._known.get((module, name), Inert()))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        named = isinstance(name, str) and isinstance(module, str)
        self._stack.append(self._known.get((module, name), Inert()) if named else Inert())

    def _call(self, _: Any) -> None:
        arguments, callee = self._pop(), self._pop()
        known = isinstance(callee, Callee) and isinstance(arguments, tuple)
        self._stack.append(callee.call(*arguments) if known else Inert())

    def _call_with_keywords(self, _: Any) -> None:
        self._pop(), self._pop(), self._pop()
        self._stack.append(Inert())

    def _set_state(self, _: Any) -> None:
        """Drops a state, which sets attributes such as versions of a state dict."""
        self._pop()
        self._top()

    def _persistent_id(self, _: Any) -> None:
        self._stack.append(self._persistent(self._pop()))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])


def _set(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise WeightFileError("its pickle has a key without a value")
    if not isinstance(target, dict):
        return
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, _Key):
            raise WeightFileError("its pickle has a key that is neither a string nor a number")
        target[key] = value


_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine._nothing, "FRAME": Machine._nothing,
    "MARK": Machine._mark, "POP": Machine._drop, "POP_MARK": Machine._drop_items,
    "DUP": Machine._double,
    "TUPLE": Machine._tuple, "LIST": Machine._list, "DICT": Machine._dict,
    "FROZENSET": Machine._inert_items, "ADDITEMS": Machine._drop_items,
    "OBJ": Machine._inert_items, "INST": Machine._inert_items,
    "APPEND": Machine._append, "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item, "SETITEMS": Machine._set_items,
    "GLOBAL": Machine._global, "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._call, "NEWOBJ": Machine._call, "NEWOBJ_EX": Machine._call_with_keywords,
    "BUILD": Machine._set_state, "BINPERSID": Machine._persistent_id,
    "PUT": Machine._put, "BINPUT": Machine._put, "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "GET": Machine._get, "BINGET": Machine._get, "LONG_BINGET": Machine._get,
}  # fmt: skip


def state_dict(tensors: Iterable[tuple[str, np.ndarray]]) -> bytes:
    """Returns the pickle of a state dict whose tensors have the storages 0, 1, 2, ... in order.

    Args:
      tensors: names with float32 arrays in C order.
    """
    items = b""
    for key, (name, array) in enumerate(tensors):
        strides = tuple(step // array.itemsize for step in array.strides)
        storage = (
            b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu")
            + _whole(array.size) + b"tQ"
        )  # fmt: skip
        items += (
            _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _whole(0)
            + _wholes(array.shape) + _wholes(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
        )  # fmt: skip
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _whole(value: int) -> bytes:
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)


def _wholes(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"
