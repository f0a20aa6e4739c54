"""JSON files of a data set or a build, read as if anybody could have written them.

What they hold is checked against a dataclass. Whatever is wrong with one is a `ContentError`, a few
words to put into a sentence that names the file.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from data_pipelines.errors import file_error
from data_pipelines.format import storage

_T = TypeVar("_T")

# Bytes of a file that describes a data set; the class names of any fit many times.
_MOST_BYTES = 2**24
_MOST_SHOWN = 60
# Beyond, a whole number fits into no array.
_MOST_INT = 2**63 - 1


class ContentError(ValueError):
    """What is wrong with a file's content."""


def read(path: str, most: int = _MOST_BYTES) -> Any:
    """Returns what a JSON file holds; see `parse`.

    Args:
      path: of the file.
      most: bytes that it may have.

    Raises:
      FileNotFoundError: there is no such file.
      ContentError: it is longer, or as `parse`.
      UserError: it can't be read.
    """
    try:
        content = storage.read(path, most + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise file_error(
            error, f"{path} can't be read ({error.strerror}): make it readable."
        ) from None
    if len(content) > most:
        raise ContentError(f"it has more than {most:,} bytes")
    return parse(content)


def parse(content: bytes) -> Any:
    """Returns what JSON says: strictly in UTF-8, each key once, numbers finite.

    Raises:
      ContentError: it is anything else.
    """
    try:
        return json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise ContentError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ContentError("it is nested too deeply") from None
    except ContentError:
        raise
    except ValueError as error:
        raise ContentError(f"it is no JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ContentError(f"it has {shown(twice)} twice")
    return values


def _no_number(text: str) -> float:
    raise ContentError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ContentError(f"{text[:_MOST_SHOWN]} is no number that can be used")
    return value


def shown(value: Any) -> str:
    """Returns a value as Python writes it, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def build(schema: type[_T], values: Any) -> _T:
    """Returns values as a dataclass whose fields they are, each of its type.

    Args:
      schema: a dataclass of texts, numbers, bools, dictionaries, tuples and other such dataclasses;
        a field of type Any takes anything.
      values: what `read` gave.

    Raises:
      ContentError: a field is missing that has no default, unknown, or of another type.
    """
    return typing.cast(_T, _checked(schema, values, "it"))


def _checked(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _fields(kind, value, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        if not isinstance(value, dict):
            raise _other(where, value, "an object")
        return {key: _checked(inner[1], v, f"{where}[{shown(key)}]") for key, v in value.items()}
    if origin in (tuple, Sequence):
        if not isinstance(value, list):
            raise _other(where, value, "a list")
        found = [_checked(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(found) if origin is tuple else found
    if kind is float and type(value) is int and abs(value) <= _MOST_INT:
        return float(value)
    if type(value) is not kind:  # True is an int to `isinstance`
        raise _other(where, value, _NAMES[kind])
    if kind is int and abs(value) > _MOST_INT:
        raise ContentError(f"{where} is a number of {value.bit_length()} bits")
    if kind is str:
        _check_text(where, value)
    return value


def _check_text(where: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:  # halves of a pair, as JSON's \\u can write
        raise ContentError(f"{where} is {shown(value)}, which has no UTF-8") from None


def _fields(schema: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _other(where, value, "an object")
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for name in value:
        if name not in fields:
            raise ContentError(f"{where} has the unknown key {shown(name)}")
    for name, field in fields.items():
        optional = field.default, field.default_factory
        if name not in value and optional == (dataclasses.MISSING, dataclasses.MISSING):
            raise ContentError(f"{where} lacks {name}")
    hints = typing.get_type_hints(schema)
    given = {name: _checked(hints[name], v, name) for name, v in value.items()}
    return schema(**given)


_NAMES: dict[Any, str] = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    types.NoneType: "null",
}  # fmt: skip


def _other(where: str, value: Any, wanted: str) -> ContentError:
    return ContentError(f"{where} is {shown(value)}, not {wanted}")
