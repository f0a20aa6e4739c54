"""Sentences for the values that the command line gives and that their flag or key can't take."""

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
_NAMED = re.compile(r"flag (?:--?|')([\w.]+)")
_PREFIX = "config."
# From what ml_collections says where a config file raises; a traceback follows.
_OF_FILE = "parsing config file"
_LINE = re.compile(r'File "(.+)", line ([0-9]+)')
# By what absl calls them.
_TYPES = {"bool": bool, "int": int, "float": float}


def explain(argv: Sequence[str], error: Exception, schema: type | None) -> str:
    """Returns the sentence for an error of absl or ml_collections in reading flags.

    Args:
      argv: the command line.
      error: what was raised.
      schema: of the config (a dataclass); None where the config itself could not be read.
    """
    if _OF_FILE in str(error):
        return _broken_file(str(error))
    named = _NAMED.search(str(error))
    name = named[1] if named else ""
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
    return f"{reason}: see python {argv[0]} --help."


def _broken_file(traceback: str) -> str:
    file, line = _LINE.findall(traceback)[-1]
    fault = traceback.strip().splitlines()[-1].rstrip(".")
    return f"The config file fails at {file}:{line} ({fault}): mend it."


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
        return f"{sentence}: see python {argv[0]} --help, and --show for the keys of a config."
    value = _given(argv, name)
    written = "" if value is None or value.startswith("-") else f"={dataclass_schema.cut(value)}"
    return f"{sentence}. Did you mean --{near[0]}{written}?"


def _is_written(text: str, kind: type) -> bool:
    """Whether a text is a number of the kind; those of absl have other bounds, which it names."""
    try:
        int(text, 0) if kind is int else float(text)
    except ValueError:
        return False
    return kind is not bool


def _given(argv: Sequence[str], name: str) -> str | None:
    """Returns the text that a flag has on the command line; None: it has none."""
    found = None
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            found = value if equals else following
    return found
