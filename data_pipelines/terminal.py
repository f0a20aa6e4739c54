"""Printing of text that holds names from outside: of files, classes, splits and data sets.

Every command prints through this module. A character that the stream's encoding lacks is printed as
an escape, so no name ends a command. So are control characters, escape sequences and marks of
writing direction, so no name moves the cursor, changes colors or hides the rest of its line. Files
keep the true names.

A stream that can't be written to (a full disk, a closed pipe) never ends a run: `print_text` warns
once. `print_result`, for the text that a command exists to print, ends the command instead.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO, cast

from data_pipelines.errors import EXIT_BAD_INPUT

EXIT_CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
_SPACE = "Zs"
_printed = time.monotonic()  # when the last line was
_warned = False  # whether it was said that standard output can't be written to


def escaped(text: str) -> str:
    r"""Returns text with each character that is not visible as an escape (`\n`, `\x1b`, `\u202e`).

    For a name within other text: it takes one line.
    """
    return "".join(map(_visible, text))


def count(number: int, noun: str) -> str:
    """`1 record`, `1,200 records`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def print_text(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints lines, escaped but for their line feeds; never fails.

    Args:
      text: one line or several.
      file: where to; None: standard output.
      end: is printed after it as given.
    """
    global _warned
    file = sys.stdout if file is None else file
    fault = _print(text, file, end)
    if fault is not None and file is sys.stdout and not _warned:
        _warned = True
        print_error(
            f"Standard output can't be written to ({_reason(fault)}): continuing without it."
        )


def print_result(text: str) -> None:
    """Prints what a command was asked for, as `print_text` does.

    Raises:
      SystemExit: nobody reads it (`EXIT_CLOSED_PIPE`), or it can't be written, which is said on
        standard error (`EXIT_BAD_INPUT`).
    """
    if fault := _print(text, sys.stdout, "\n"):
        _end(fault)


def is_interactive() -> bool:
    """Whether standard output is a terminal on which a line can be written over."""
    stream = sys.stdout
    if stream is None or stream.closed or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def quiet_seconds() -> float:
    """The time since the last line was printed."""
    return time.monotonic() - _printed


@contextlib.contextmanager
def guarded_output() -> Iterator[None]:
    """Surrounds a whole command: output that is left when it ends can't change how it ends.

    Raises:
      SystemExit: as `print_result`, for text printed in other ways (the lines of --help).
    """
    atexit.register(_discard_unwritten)  # a traceback may still come
    stream = sys.stdout
    watched = _Watched(stream)
    sys.stdout = cast(TextIO, watched) if stream is not None else None
    try:
        yield
    except OSError as error:
        if error is watched.fault:
            _end(error)
        raise
    except SystemExit as end:
        if not end.code:
            _check(watched)
        raise
    else:
        _check(watched)
    finally:
        sys.stdout = stream


class _Watched:
    """A stream that remembers what kept it from being written to, whoever wrote and was told."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self.fault = error
            raise


def _check(watched: _Watched) -> None:
    _flush(sys.stdout)
    if watched.fault is not None and not _warned:
        _end(watched.fault)


def _print(text: str, file: TextIO | None, end: str) -> OSError | None:
    """Prints lines; returns what kept them from being printed."""
    global _printed
    _printed = time.monotonic()
    if file is None or file.closed:  # as by `>&-`
        return None
    lines = "\n".join(map(escaped, text.split("\n")))
    encoding = getattr(file, "encoding", None) or "utf-8"
    lines = lines.encode(encoding, "backslashreplace").decode(encoding)
    try:
        with _above_bars(file):
            print(lines, end=end, file=file, flush=True)
    except OSError as error:
        return error
    return None


def _above_bars(file: TextIO) -> contextlib.AbstractContextManager[None]:
    """Lifts the lines that are written in place (`activity`) while another one is printed."""
    library = sys.modules.get("tqdm")
    return library.tqdm.external_write_mode(file=file) if library else contextlib.nullcontext()


def print_error(sentence: str) -> None:
    """Prints one line, whatever is in it, on standard error; never fails."""
    _print(escaped(sentence), sys.stderr, "\n")


def _end(fault: OSError) -> NoReturn:
    _discard_unwritten()
    if isinstance(fault, BrokenPipeError):
        raise SystemExit(EXIT_CLOSED_PIPE)
    print_error(
        f"error: Standard output can't be written to ({_reason(fault)}): make room, or send it to"
        " another place."
    )
    raise SystemExit(EXIT_BAD_INPUT)


def _flush(file: TextIO | None) -> OSError | None:
    """Writes what is left; returns what keeps it from being written."""
    try:
        if file is not None and not file.closed:
            file.flush()
    except OSError as error:
        return error
    return None


def _discard_unwritten() -> None:
    """Lets Python end without another try, which would be a traceback and a status of its own."""
    for file in (sys.stdout, sys.stderr):
        if _flush(file) is not None:
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, file.fileno())
                os.close(null)
            _flush(file)


def _reason(fault: OSError) -> str:
    return fault.strerror or str(fault)


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == _SPACE:
        return character
    return character.encode("unicode_escape").decode("ascii")
