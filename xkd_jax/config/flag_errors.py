"""Messages for invalid values of flags and config keys on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from xkd_jax.config import dataclass_schema

# How absl begins: "flag --NAME=VALUE: REASON", "Missing value for flag --NAME",
# "Unknown command line flag 'NAME'", "Trying to specify the value ... flag --NAME".
_NAMED = re.compile(r"flag (?:--?|')([\w.]+)(?:\[\"(\w+)\"])?")
_PREFIX = "config."
# Text of ml_collections' error if a config file raises; a traceback follows.
_OF_FILE = "parsing config file"
_LINE = re.compile(r'File "(.+)", line ([0-9]+)')
# {absl's name of a type: type}
_TYPES = {"bool": bool, "int": int, "float": float}


def explain(argv: Sequence[str], error: Exception, schema: type | None) -> str:
    """Returns the message for an error of absl or ml_collections in parsing flags.

    Args:
      argv: the command line.
      error: the error that they raised.
      schema: schema of the config; None if the config could not be read.
    """
    if _OF_FILE in str(error):
        return _broken_file(str(error))
    named = _NAMED.search(str(error))
    name = ".".join(filter(None, named.groups())) if named else ""
    key = name.removeprefix("no").removeprefix(_PREFIX)
    kind = None if schema is None else dataclass_schema.kind_of(schema, key)
    if kind is not None and name != key:
        return _wrong_value(argv, name, key, kind)
    if name in flags.FLAGS:
        kind = _TYPES.get(flags.FLAGS[name].flag_type())
        value = _given(argv, name)
        if kind is not None and value is not None and not _is_written(value, kind):
            shown, allowed = dataclass_schema.shown(value), dataclass_schema.allowed(kind)
            return f"--{name} is {shown}: give {allowed}."
    if isinstance(error, flags.UnrecognizedFlagError):
        return _no_such_flag(argv, name, schema)
    reason = " ".join(str(error).split()).rstrip(".")
    return f"{reason}: see --help."


def _broken_file(traceback: str) -> str:
    file, line = _LINE.findall(traceback)[-1]
    fault = traceback.strip().splitlines()[-1].rstrip(".")
    return f"The config file fails at {file}:{line} ({fault}): correct it."


def _wrong_value(argv: Sequence[str], name: str, key: str, kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return f"{key} is a section: give --config.{key}.KEY=VALUE for a KEY of it."
    allowed = dataclass_schema.allowed(kind)
    if name.startswith("no"):
        return f"--{name} is for true or false: give --config.{key}=VALUE, {allowed}."
    value = _given(argv, name)
    if value is None:
        return f"{key} has no value: give --config.{key}=VALUE, {allowed}."
    return f"{key} is {dataclass_schema.shown(value)}: give {allowed}."


def _no_such_flag(argv: Sequence[str], name: str, schema: type | None) -> str:
    """Names the flag, or the key of the config, that is most like the one given."""
    sentence = f"There is no flag --{name}"
    section, _, rest = name.partition(".")
    key = rest if difflib.get_close_matches(section, [_PREFIX.rstrip(".")]) else name
    known = [flag for flag in flags.FLAGS if not flag.startswith(_PREFIX)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if not near and schema is not None and (found := dataclass_schema.nearest_key(key, schema)):
        near = [_PREFIX + found]
    if not near:
        return f"{sentence}: see --help, and --show for the keys of a config."
    value = _given(argv, name)
    written = "" if value is None or value.startswith("-") else f"={dataclass_schema.cut(value)}"
    return f"{sentence}. Did you mean --{near[0]}{written}?"


def _is_written(text: str, kind: type) -> bool:
    """Whether a text is a number of this type; absl's own messages name its bounds."""
    try:
        int(text, 0) if kind is int else float(text)
    except ValueError:
        return False
    return kind is not bool


def _given(argv: Sequence[str], name: str) -> str | None:
    """Returns the text of a flag on the command line, or None."""
    found = None
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            found = value if equals else following
    return found
