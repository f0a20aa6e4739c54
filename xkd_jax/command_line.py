"""Flags of commands with a config; errors are one sentence and an exit status."""

from __future__ import annotations

import contextlib
import keyword
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import app, flags, logging
from ml_collections import config_flags

from data_pipelines import resumable_end, terminal
from data_pipelines.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_RESUMABLE,
    LostProcessError,
    StoppedError,
    UserError,
)
from xkd_jax.config import config_file, dataclass_schema, flag_errors, listing
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config import pretraining as xkd_config
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config

_Schema = TypeVar("_Schema", Config, EvalConfig)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="The experiment: configs/NAME.py or configs/NAME.py:VARIANT. Without such"
    " a file in the working directory, the one of this package is used.",
)
_CONFIG_FLAGS = ("--config", "-config")
_SHOW = flags.DEFINE_boolean(
    "show", False, "Print every key of the config with its value, default and meaning, and end."
)
# The flag of a key: all but its last part, and the last part.
_LAST_KEY = re.compile(r"^(--?config(?:\.\w+)+)\.(\w+)(?==|$)")
# Python's error if a variant is given for a config file without variants.
_TAKES_NO_VARIANT = "get_config() takes 0 positional arguments"
# Errors of parsers of values; the last three for invalid or too deeply nested literals.
_VALUE_ERRORS = (TypeError, ValueError, SyntaxError, RecursionError, MemoryError)

# Seconds until a process that has finished is ended, and JAX's timeout for the other processes.
PATIENCE = 10
_JAX_PATIENCE = 300


def run(
    main: Callable[[Config], None],
    evaluate: Callable[[EvalConfig], None] | None = None,
    guide: str = "",
) -> None:
    """Runs a command with its checked config; ends the process with an exit status.

    Args:
      main: runs a pretraining config.
      evaluate: runs the config of an evaluation; None: the command accepts none.
      guide: text of --help, and of the command without arguments; empty: absl's text.
    """
    logging.set_verbosity(logging.WARNING)

    def with_config(argv: list[str]) -> None:
        if len(argv) > 1:
            raise UserError(f"{argv[1]!r} is not a flag: give arguments that start with --.")
        pretraining = _schema(_CONFIG.value) is Config
        if _SHOW.value:
            resolve = xkd_config.resolve if pretraining else eval_config.resolve
            show(resolve(_CONFIG.value))
            return
        path = Path(config_path(sys.argv).partition(":")[0])
        if config_file.is_of_package(path):
            terminal.print_text(f"config    {path}")
        if pretraining:
            main(xkd_config.resolve(_CONFIG.value))
        elif evaluate is not None:
            evaluate(eval_config.resolve(_CONFIG.value))
        else:
            raise UserError(f"{config_path(sys.argv)} is an evaluation: give a pretraining config.")

    with terminal.guarded_output():
        if guide and (len(sys.argv) == 1 or {"--help", "-help", "-h"} & {*sys.argv}):
            terminal.print_result(guide.strip())
            sys.exit(0 if len(sys.argv) > 1 else EXIT_BAD_INPUT)
        try:
            with resumable_end.on_request():
                app.run(with_config, flags_parser=parse_flags)
        except UserError as error:
            terminal.print_error(f"error: {error}")
            _leave(error.status)
        except StoppedError as stopped:
            terminal.print_error(f"stopped   {stopped}")
            _leave(EXIT_RESUMABLE)
        except LostProcessError as loss:
            terminal.print_error(f"error: {loss}")
            _leave(EXIT_FAILURE)
        except KeyboardInterrupt:
            terminal.print_error("stopped   by Ctrl-C, without saving: the same command resumes")
            _leave(EXIT_INTERRUPTED)
        except SystemExit as end:  # also the end of a successful command
            _schedule_exit(end.code if isinstance(end.code, int) else bool(end.code))
            raise
        except BaseException:
            _schedule_exit(EXIT_FAILURE)
            raise


def _leave(status: int) -> None:
    _schedule_exit(status)
    sys.exit(status)


def _schedule_exit(status: int) -> None:
    """Ends the process with this status after `PATIENCE` seconds at the latest.

    On exit, Python waits for threads and worker processes, which may hang, and JAX for the other
    processes of a run. After a success, JAX's timeout is added.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal must not change the status
    jax = sys.modules.get("jax")
    several = jax is not None and jax.distributed.is_initialized()
    patience = PATIENCE + (_JAX_PATIENCE if several and status == 0 else 0)
    deadline = threading.Timer(patience, os._exit, (status,))
    deadline.daemon = True
    deadline.start()


def config_path(argv: Sequence[str]) -> str:
    """Returns the last --config of a command line, FILE.py or FILE.py:VARIANT; empty: none."""
    given = ""
    for flag, value in zip(argv, [*argv[1:], ""], strict=True):
        name, _, text = flag.partition("=")
        if name in _CONFIG_FLAGS:
            given = text or value
    name, colon, variant = given.partition(":")
    found = config_file.find(name) if name else None
    return f"{found or name}{colon}{variant}"


def show(config: Config | EvalConfig) -> None:
    """Prints every key of a config, and the changes of the command line."""
    changed = changes()
    terminal.print_result(
        f"{config_path(sys.argv)}: KEY = VALUE  meaning  [default: where the value is another one]"
        "; * changed by the command line"
    )
    for line in listing.lines(config, changed):
        terminal.print_result(line)
    count = terminal.count(len(changed), "key")
    text = f": {listing.described(changed)}" if changed else ""
    terminal.print_result(f"\n{count} changed by the command line{text}")


def changes() -> dict[str, tuple[Any, Any]]:
    """Returns {key: (value of the config file, value of the command line)} of changed keys."""
    written = read_config(config_path(sys.argv))
    return listing.changes(written.to_dict(), _CONFIG.value.to_dict())


def written_config(schema: type[_Schema]) -> _Schema | None:
    """Returns the config of the file without overrides, or None if it is not valid.

    Args:
      schema: `Config` or `EvalConfig`.
    """
    resolve: Any = xkd_config.resolve if schema is Config else eval_config.resolve
    try:
        return resolve(read_config(config_path(sys.argv)))
    except UserError:
        return None


def read_config(path: str) -> Any:
    """Returns the content of a config file, FILE.py or FILE.py:VARIANT."""
    return flags.FLAGS[_CONFIG.name].parser.parse(path)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; errors of absl and ml_collections become a `UserError`.

    Raises:
      UserError: a flag, a config key or a variant does not exist, or a value has the wrong type.
    """
    given = config_path(argv)
    path = given.partition(":")[0]
    if not path and not any("help" in argument for argument in argv):
        try:
            flags.FLAGS(argv)
        except flags.UnrecognizedFlagError as error:
            raise UserError(flag_errors.explain(argv, error, Config)) from None
        except flags.Error:
            pass
        raise UserError("There is no --config: give --config=configs/demo.py, for example.")
    if path and not Path(path).is_file():
        raise config_file.missing(path)
    try:
        with _keywords_as_indices(argv) as indexed:
            return flags.FLAGS(_with_config(indexed, given))
    except (KeyError, AttributeError) as error:
        raise UserError(_explain_key(argv, error)) from None
    except (flags.Error, *_VALUE_ERRORS) as error:
        if _TAKES_NO_VARIANT in str(error):
            variant = config_path(argv).partition(":")[2]
            raise UserError(
                f"{path} has no variants, and {variant!r} is given: give --config={path}."
            ) from None
        raise UserError(flag_errors.explain(argv, error, _schema_given(argv))) from None


@contextlib.contextmanager
def _keywords_as_indices(argv: Sequence[str]) -> Iterator[list[str]]:
    """Yields the command line, also as sys.argv, with `init["from"]` in place of `init.from`.

    ml_collections reads sys.argv, and parses a key as an expression of Python, in which `from` is a
    keyword.
    """

    def index(match: re.Match[str]) -> str:
        last = match[2]
        return f'{match[1]}["{last}"]' if keyword.iskeyword(last) else match[0]

    given = sys.argv
    sys.argv = [_LAST_KEY.sub(index, argument, count=1) for argument in argv]
    try:
        yield sys.argv
    finally:
        sys.argv = given


def _schema(content: Any) -> type:
    """Returns the schema of a config file's content; only evaluations have a protocol."""
    return EvalConfig if "protocol" in content else Config


def _schema_given(argv: list[str]) -> type | None:
    """Returns the schema of the command line's config; None if it can't be read."""
    try:
        return _schema(read_config(config_path(argv)))
    except (OSError, *_VALUE_ERRORS):
        return None


def _with_config(argv: Sequence[str], given: str) -> list[str]:
    """Returns the command line with another value of each --config."""
    following = zip(argv, ["", *argv], strict=False)
    kept = [argument for argument, before in following if before not in _CONFIG_FLAGS]
    return [f"--config={given}" if a.partition("=")[0] in _CONFIG_FLAGS else a for a in kept]


def _explain_key(argv: list[str], error: Exception) -> str:
    schema = _schema(read_config(config_path(argv)))
    known = set(dataclass_schema.keys(schema))
    for argument in argv[1:]:
        key = argument.lstrip("-").partition("=")[0].removeprefix("no")
        if key.startswith("config.") and (key := key.removeprefix("config.")) not in known:
            return dataclass_schema.no_such_key(key, schema)
    return str(error)
