"""The text of --show: every key of a config with value, default and meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from xkd_jax.config import dataclass_schema

_WIDTH = 44  # of a key with its value, before the meaning
_MARK = "*"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of nested values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted key: (value before, value now)} of values that differ.

    Args:
      before: nested values of a config file.
      now: the same with the overrides of the command line; missing keys do not count.
    """
    was = flat(before)
    return {key: (was.get(key), value) for key, value in flat(now).items() if was.get(key) != value}


def described(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Returns the result of `changes` as text: `batch_size 64 -> 4, epochs 0.0 -> 1.0`."""
    return ", ".join(
        f"{key} {written(before)} -> {written(now)}" for key, (before, now) in changed.items()
    )


def flags_line(written: Any, config: Any) -> str:
    """Text of the command line's changes to a config file, for the first lines of a run.

    Args:
      written: config of the file without overrides, as frozen dataclasses.
      config: those of the run.
    """
    changed = changes(dataclasses.asdict(written), dataclasses.asdict(config))
    return f"flags     {described(changed) or 'none: all settings are those of the config file'}"


def lines(config: Any, changed: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """Yields a line for each key: key, value, meaning, and the default if it differs.

    Args:
      config: the frozen dataclasses of a run or of an evaluation.
      changed: overrides of the command line (`changes`); their lines begin with a mark.
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


def table(config: Any) -> str:
    """Returns every key with its value and meaning as a Markdown table.

    Args:
      config: the frozen dataclasses of a run or of an evaluation.
    """
    values, meanings = flat(dataclasses.asdict(config)), dataclass_schema.meanings(type(config))
    rows = [("key", "value", "meaning"), ("---",) * 3]
    rows += [(key, written(values[key]), meaning) for key, meaning in meanings.items()]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def written(value: Any) -> str:
    """Returns a value in the form of the command line."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(written, value))})"
    return value if isinstance(value, str) and value else repr(value)
