"""Strict reading of the JSON files of a data set or a build, as untrusted input.

The content is checked against a dataclass. Every fault raises `ContentError`, whose text callers
put into a sentence with the file's name.
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

# Bytes of a file that describes a data set; far more than the class names of any benchmark.
_MOST_BYTES = 2**24
_MOST_SHOWN = 60
# Largest int64.
_MOST_INT = 2**63 - 1


class ContentError(ValueError):
    """Invalid content of a file."""


def read(path: str, max_bytes: int = _MOST_BYTES) -> Any:
    """Returns the value in a JSON file; see `parse`.

    Args:
      path: of the file.
      max_bytes: largest size of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ContentError: the file is larger or is refused by `parse`.
      UserError: the file can't be read.
    """
    try:
        content = storage.read(path, max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise file_error(
            error, f"{path} can't be read ({error.strerror}): check its permissions and its disk."
        ) from None
    if len(content) > max_bytes:
        raise ContentError(f"it has more than {max_bytes:,} bytes")
    return parse(content)


def parse(content: bytes) -> Any:
    """Returns the value of JSON text in UTF-8 with unique keys and finite numbers.

    Raises:
      ContentError: the content is anything else.
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
        raise ContentError(f"it is not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = collections.Counter(key for key, _ in pairs).most_common(1)
        raise ContentError(f"it has the key {shown(twice)} twice")
    return values


def _no_number(text: str) -> float:
    raise ContentError(f"{text} is not a number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ContentError(f"{text[:_MOST_SHOWN]} is not a finite number")
    return value


def shown(value: Any) -> str:
    """Returns the `repr` of a value, cut off after 60 characters."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def build(schema: type[_T], values: Any) -> _T:
    """Returns a dataclass from the values of a JSON object, checking the type of each field.

    Args:
      schema: a dataclass; its fields are str, int, float, bool, dict, tuple, such dataclasses, or
        Any.
      values: returned by `read`.

    Raises:
      ContentError: a field without default is missing, or a key is unknown or of another type.
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
    except UnicodeEncodeError:  # a lone surrogate, which a JSON escape can produce
        raise ContentError(f"{where} is {shown(value)}, which can't be encoded in UTF-8") from None


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
