"""Parses and serializes tf.train.Example and tf.train.SequenceExample without TensorFlow.

Parsing copies no data: byte strings are views of the record, and packed floats become arrays
without a loop. (For a megabyte of JPEG images, the copies and allocations of protobuf cost a tenth
of the decoding of a clip.) Messages, from tensorflow/core/example/*.proto:

    Example          { Features features = 1 }
    SequenceExample  { Features context = 1; FeatureLists feature_lists = 2 }
    Features         { map<string, Feature> feature = 1 }         entries { key = 1; value = 2 }
    FeatureLists     { map<string, FeatureList> feature_list = 1 }
    FeatureList      { repeated Feature feature = 1 }
    Feature          { BytesList = 1 | FloatList = 2 | Int64List = 3 }, each { repeated value = 1 }
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

# Wire types of protobuf: the encoding of a field's value.
_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
_BYTES, _FLOATS, _INTS = 1, 2, 3


# Limit of the fields in one message and its submessages. A field of two bytes takes about 200 bytes
# as an object, and a microsecond; a record has 12 features and one field per frame.
MAX_FIELDS = 2**20
_LONGEST_KEY = 1000


class WireError(ValueError):
    """The bytes are not a valid message."""


class _Budget:
    """The number of fields of a message that may still be read."""

    def __init__(self) -> None:
        self.left = MAX_FIELDS

    def spend(self, count: int) -> None:
        """Subtracts `count`.

        Raises:
          WireError: fewer are left.
        """
        self.left -= count
        if self.left < 0:
            raise WireError(f"more than {MAX_FIELDS:,} fields")


class Feature:
    """One feature: a list of byte strings, of floats or of integers.

    The accessors of the two other kinds return empty lists. Each method parses the message anew and
    may raise `WireError`.
    """

    def __init__(self, message: memoryview, budget: _Budget | None = None):
        self._message = message
        self._budget = budget or _Budget()

    def bytes_list(self) -> list[memoryview]:
        """Returns the byte strings, as views."""
        lists = self._lists(_BYTES)
        return [value for message in lists for value in _messages(message, 1, self._budget)]

    def floats(self) -> np.ndarray:
        """Returns the floats, float32 [n]."""
        parts = [_packed(value, np.dtype("<f4")) for value in self._values(_FLOATS)]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def ints(self) -> np.ndarray:
        """Returns the integers, int64 [n]."""
        parts: list[int] = []
        for value in self._values(_INTS):
            parts.extend([value] if isinstance(value, int) else _varints(value, self._budget))
        return np.array([part % 2**64 for part in parts], np.uint64).astype(np.int64)

    def _values(self, kind: int) -> Iterator[memoryview | int]:
        """Yields the values of a list; a view has several packed values."""
        for message in self._lists(kind):
            yield from (value for inner, value in _fields(message, self._budget) if inner == 1)

    def _lists(self, kind: int) -> Iterator[memoryview]:
        fields = _fields(self._message, self._budget)
        return (v for number, v in fields if number == kind and isinstance(v, memoryview))


class FeatureList:
    """The features of a list, in order; they are parsed during iteration."""

    def __init__(self, message: memoryview, budget: _Budget):
        self._message = message
        self._budget = budget

    def __iter__(self) -> Iterator[Feature]:
        for step in _messages(self._message, 1, self._budget):
            yield Feature(step, self._budget)


def parse_example(data: bytes | memoryview) -> dict[str, Feature]:
    """Returns the features of a serialized Example.

    Raises:
      WireError: the data is not an Example. Values are parsed, and may raise it, on access.
    """
    budget = _Budget()
    entries = _map(_messages(memoryview(data), 1, budget), budget)
    return {key: Feature(value, budget) for key, value in entries}


def parse_sequence_example(
    data: bytes | memoryview,
) -> tuple[dict[str, Feature], dict[str, FeatureList]]:
    """Returns the context and the feature lists of a serialized SequenceExample.

    Raises:
      WireError: as `parse_example`.
    """
    view, budget = memoryview(data), _Budget()
    context = _map(_messages(view, 1, budget), budget)
    lists = _map(_messages(view, 2, budget), budget)
    return (
        {key: Feature(value, budget) for key, value in context},
        {key: FeatureList(value, budget) for key, value in lists},
    )


def serialize_example(
    features: Mapping[str, Sequence[bytes | memoryview] | np.ndarray],
) -> bytes:
    """Returns a serialized Example with its features in the order of their names.

    Args:
      features: byte strings as a list, floats as a float32 array, integers as an int64 array.
    """
    entries = []
    for name in sorted(features):
        feature = _serialize_feature(features[name])
        entries.append(_sized(1, _sized(1, name.encode()) + _sized(2, feature)))
    return _sized(1, b"".join(entries))


def _serialize_feature(values: Sequence[bytes | memoryview] | np.ndarray) -> bytes:
    if not isinstance(values, np.ndarray):
        return _sized(_BYTES, b"".join(_sized(1, value) for value in values))
    if values.dtype == np.float32:
        kind, packed = _FLOATS, values.astype("<f4").tobytes()
    else:
        kind, packed = _INTS, b"".join(_varint(int(value) % 2**64) for value in values)
    return _sized(kind, _sized(1, packed) if packed else b"")


def _sized(number: int, value: bytes | memoryview) -> bytes:
    return b"".join((_varint(number << 3 | _SIZED), _varint(len(value)), value))


def _varint(value: int) -> bytes:
    """Returns the base-128 varint of an unsigned integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _map(messages: Iterable[memoryview], budget: _Budget) -> Iterator[tuple[str, memoryview]]:
    """Yields key and value of each entry of the maps in field 1 of the messages."""
    for message in messages:
        for entry in _messages(message, 1, budget):
            key, value = memoryview(b""), memoryview(b"")
            for number, field in _fields(entry, budget):
                if number == 1 and isinstance(field, memoryview):
                    key = field
                elif number == 2 and isinstance(field, memoryview):
                    value = field
            if len(key) > _LONGEST_KEY:
                raise WireError(f"a name of {len(key):,} bytes")
            yield str(key, "utf-8"), value


def _messages(message: memoryview, wanted: int, budget: _Budget) -> list[memoryview]:
    """Returns the length-delimited fields number `wanted`; fast if the message has no others."""
    tag, start, end = wanted << 3 | _SIZED, 0, len(message)
    found: list[memoryview] = []
    while start + 2 < end and message[start] == tag and len(found) <= budget.left:
        low, high = message[start + 1], message[start + 2]
        if low > 0x7F > high:  # inlined for lengths of two bytes, those of most images
            start += 3
            stop = start + (low & 0x7F | high << 7)
        else:
            size, start = _read_varint(message, start + 1)
            stop = start + size
        if stop > end:
            raise WireError("a truncated field")
        found.append(message[start:stop])
        start = stop
    budget.spend(len(found))
    found += [
        value
        for number, value in _fields(message[start:], budget)
        if number == wanted and isinstance(value, memoryview)
    ]
    return found


def _fields(message: memoryview, budget: _Budget) -> Iterator[tuple[int, memoryview | int]]:
    """Yields number and value of each field: an int for a varint, otherwise a view."""
    position, end = 0, len(message)
    while position < end:
        budget.spend(1)
        key, position = _read_varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            number, position = _read_varint(message, position)
            yield key >> 3, number
            continue
        if kind == _SIZED:
            size, position = _read_varint(message, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise WireError(f"a field of wire type {kind}")
        if position + size > end:
            raise WireError("a truncated field")
        yield key >> 3, message[position : position + size]
        position += size


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Returns the varint at a position, and the position after it."""
    try:
        value = message[position]
        shift, position = 7, position + 1
        if value < 0x80:
            return value, position
        value &= 0x7F
        while (byte := message[position]) > 0x7F:
            value |= (byte & 0x7F) << shift
            shift, position = shift + 7, position + 1
            if shift > 63:
                raise WireError("a number of more than 64 bits")
        return value | byte << shift, position + 1
    except IndexError:
        raise WireError("a truncated number") from None


def _varints(packed: memoryview, budget: _Budget) -> Iterator[int]:
    position = 0
    while position < len(packed):
        budget.spend(1)
        value, position = _read_varint(packed, position)
        yield value


def _packed(value: memoryview | int, dtype: np.dtype) -> np.ndarray:
    if isinstance(value, int) or len(value) % dtype.itemsize:
        raise WireError("a list of floats with a wrong length")
    return np.frombuffer(value, dtype)
