"""Every key of a config with its value, its default and its meaning, as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from xkd_jax.config import dataclass_schema

_WIDTH = 44  # of a key with its value, before the meaning
_MARK = "*"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (value before, value now)} of what differs between nested values.

    Args:
      before: nested values, as in a config file.
      now: the same after what the command line changed; keys that it lacks are no changes.
    """
    was = flat(before)
    return {key: (was.get(key), value) for key, value in flat(now).items() if was.get(key) != value}


def described(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """What `changes` returns in one line: `batch_size 64 -> 4, epochs 0.0 -> 1.0`."""
    return ", ".join(
        f"{key} {written(before)} -> {written(now)}" for key, (before, now) in changed.items()
    )


def lines(config: Any, changed: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """A line for each key, sections apart: key, value, meaning, and the default where it differs.

    Args:
      config: the frozen dataclasses of a run or of an evaluation.
      changed: what the command line changed (`changes`); these lines begin with a mark.
    """
    schema = type(config)
    values, defaults = (flat(dataclasses.asdict(c)) for c in (config, schema()))
    section = ""
    for key, meaning in dataclass_schema.meanings(schema).items():
        if (of := key.rpartition(".")[0]) != section:
            section = of
            yield ""
        notes = []
        if key in changed:
            notes.append(f"the file: {written(changed[key][0])}")
        if values[key] != defaults[key]:
            notes.append(f"default: {written(defaults[key])}")
        mark = _MARK if key in changed else " "
        text = f"{mark} {f'{key} = {written(values[key])}':{_WIDTH}}  {meaning}"
        yield (text + (f"  [{'; '.join(notes)}]" if notes else "")).rstrip()


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(written, value))})"
    return value if isinstance(value, str) and value else repr(value)
