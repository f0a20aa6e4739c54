"""Nested frozen dataclasses as the schema of a config: checks of values, keys and meanings."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Doc, Range

Schema = TypeVar("Schema")

# Notes on values of a type.
_FORMS = {bool: " (true or false)", int: " (a whole number)", float: " (a number)"}
# Larger integers do not fit into arrays.
_INT_BITS = 63
_MOST_SHOWN = 100


def build(schema: type[Schema], values: dict[str, Any]) -> Schema:
    """Returns nested values as a schema's frozen dataclasses; missing keys have their defaults.

    Args:
      schema: a dataclass, with dataclasses as sections.
      values: nested dictionaries.

    Raises:
      UserError: a key is not in the schema (the nearest valid key is named), or a value has the
        wrong type or is outside of its field's `Range`.
    """
    return _build(schema, values, "", schema)


def keys(schema: type) -> list[str]:
    """Returns all dotted keys of a schema."""
    return [key for key, _ in _dotted_fields(schema)]


def meanings(schema: type) -> dict[str, str]:
    """The text of each dotted key's `Doc`; empty for a key without one."""

    def text(kind: Any) -> str:
        notes = typing.get_args(kind) if typing.get_origin(kind) is Annotated else ()
        return next((note.text for note in notes if isinstance(note, Doc)), "")

    return {key: text(kind) for key, kind in _dotted_fields(schema)}


def lacking(schema: type, values: dict[str, Any]) -> list[str]:
    """Returns the dotted keys of a schema that are missing in nested values."""

    def given(key: str) -> bool:
        found: Any = values
        for name in key.split("."):
            if not isinstance(found, dict) or name not in found:
                return False
            found = found[name]
        return True

    return [key for key in keys(schema) if not given(key)]


def kind_of(schema: type, key: str) -> Any:
    """Returns the type of a dotted key, a dataclass for a section, or None for an unknown key."""
    kind: Any = schema
    for name in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return None
        kind = typing.get_type_hints(kind).get(name)
    return kind


def allowed(kind: Any) -> str:
    """Describes the values of a type (not of a section), as words after "give"."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if _is_choices(kind):
        names = ", ".join(map(repr, typing.get_args(inner[0])))
        return f"one or more of {names}, with commas between them"
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"{count}values of type {_name(inner[0])}, with commas between them"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(allowed(part) for part in inner)
    if kind is types.NoneType:
        return "None"
    return f"a value of type {_name(kind)}" + _FORMS.get(kind, "")


def shown(value: Any) -> str:
    """Returns the `repr` of a value, truncated to 100 characters."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text, truncated if it would fill the terminal."""
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def nearest_key(key: str, schema: type) -> str | None:
    """Returns the schema's dotted key that is most similar to `key`, or None."""
    known = keys(schema)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not near:
        last = key.rsplit(".", 1)[-1]
        by_last = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        near = [by_last[k] for k in difflib.get_close_matches(last, by_last, n=1, cutoff=0.6)]
    return near[0] if near else None


def no_such_key(key: str, schema: type) -> str:
    """Returns the message for a dotted key that is not in the schema."""
    near = nearest_key(key, schema)
    return f"The config has no key {key}." + (f" Did you mean {near}?" if near else "")


def _dotted_fields(cls: type, prefix: str = "") -> typing.Iterator[tuple[str, Any]]:
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from _dotted_fields(typing.cast(type, kind), f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _build(cls: type, values: Any, prefix: str, schema: type) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    if not isinstance(values, dict):
        raise UserError(
            f"{prefix.rstrip('.')} is {values!r}: give a section of {', '.join(hints)}."
        )
    for key in values:
        if key not in hints:
            raise UserError(no_such_key(prefix + key, schema))
    return cls(
        **{
            key: _build(hints[key], value, f"{prefix}{key}.", schema)
            if dataclasses.is_dataclass(hints[key])
            else _field(value, hints[key], prefix + key)
            for key, value in values.items()
        }
    )


def _field(value: Any, kind: Any, path: str) -> Any:
    limits = None
    if typing.get_origin(kind) is Annotated:
        kind, *notes = typing.get_args(kind)
        limits = next((note for note in notes if isinstance(note, Range)), None)
    value = _coerce(value, kind, path)
    if words := _violated(value, kind, limits):
        raise UserError(f"{path} is {shown(value)}: give {words}.")
    return value


def _violated(value: Any, kind: Any, limits: Range | None) -> str | None:
    """Describes the valid values, if a number or a tuple is outside of its range; else None."""
    if isinstance(value, tuple):
        if limits is None:
            infinite = any(isinstance(v, float) and not math.isfinite(v) for v in value)
            return "finite numbers" if infinite else None
        count = None if typing.get_args(kind)[-1] is Ellipsis else len(value)
        return None if limits.holds(value) else limits.words_of_tuple(count)
    if limits is None:
        infinite = isinstance(value, float) and not math.isfinite(value)
        return "a finite number" if infinite else None
    if value in limits:
        return None
    return limits.words() + (" and finite" if value == limits.high == math.inf else "")


def _coerce(value: Any, kind: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    refusal = UserError(f"{path} is {shown(value)}: give {allowed(kind)}.")
    if origin is Literal:
        # 1 == True in Python
        if not any(value == c and type(value) is type(c) for c in typing.get_args(kind)):
            raise refusal
        return value
    if _is_choices(kind):
        return _chosen(value, typing.get_args(typing.get_args(kind)[0]), refusal)
    if origin is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis and isinstance(value, (tuple, list)):
            kinds = kinds[:1] * len(value)
        if not isinstance(value, (tuple, list)) or len(value) != len(kinds):
            raise refusal
        return tuple(_coerce(v, k, path) for v, k in zip(value, kinds, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, refusal)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise refusal
    if isinstance(value, int) and value.bit_length() > _INT_BITS:
        raise UserError(f"{path} is a number of {value.bit_length()} bits: give a smaller one.")
    return value


def _is_choices(kind: Any) -> bool:
    """Whether a type is tuple[Literal[...], ...], a set of choices."""
    inner = typing.get_args(kind)
    return typing.get_origin(kind) is tuple and typing.get_origin(inner[0]) is Literal


def _chosen(value: Any, choices: tuple[str, ...], refusal: UserError) -> tuple[str, ...]:
    """Returns the given choices in the order of `choices`; an element may be "a,b"."""
    if not isinstance(value, (tuple, list)) or not all(isinstance(v, str) for v in value):
        raise refusal
    given = [name for text in value for name in text.split(",")]
    if not given or not set(given) <= set(choices):
        raise refusal
    return tuple(choice for choice in choices if choice in given)


def _as_float(value: int, refusal: UserError) -> float:
    try:
        return float(value)
    except OverflowError:
        raise refusal from None
