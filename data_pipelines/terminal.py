"""Printing of text that contains untrusted names: of files, classes, splits and data sets.

Every command prints through this module. It escapes characters that the stream's encoding lacks,
so that printing never raises. It also escapes control characters, escape sequences and marks of
writing direction, so that a name can't move the cursor, change colors or hide text. Names in files
are not escaped.

A stream that can't be written to (a full disk, a closed pipe) never ends a run: `print_text` warns
once. `print_result`, for the result of a command, ends the command instead.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TextIO, cast

from data_pipelines.errors import EXIT_BAD_INPUT

EXIT_CLOSED_PIPE = 141  # status that a shell reports for a program ended by SIGPIPE
_SPACE = "Zs"
_printed = time.monotonic()  # time of the last line
_warned = False  # whether the warning about standard output was printed


def escaped(text: str) -> str:
    r"""Returns text with each character that is not visible as an escape (`\n`, `\x1b`, `\u202e`).

    Use it for a name inside other text: the result is one line.
    """
    return "".join(map(_visible, text))


def table_row(cells: Iterable[str]) -> str:
    """Returns a row of a Markdown table, with cells as by `escaped` and vertical lines escaped."""
    texts = (escaped(cell).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(texts)} |"


def count(number: int, noun: str) -> str:
    """Returns a number with its noun: `1 record`, `1,200 records`, `2 classes`."""
    plural = "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {noun}" + (plural if number != 1 else "")


def print_text(text: str, file: TextIO | None = None) -> None:
    """Prints lines, escaped except for line feeds; never raises.

    Args:
      text: one line or several.
      file: the stream; None: standard output.
    """
    global _warned
    file = sys.stdout if file is None else file
    fault = _print(text, file)
    if fault is not None and file is sys.stdout and not _warned:
        _warned = True
        print_error(
            f"Standard output can't be written to ({_reason(fault)}): continuing without it."
        )


def print_result(text: str) -> None:
    """Prints the result of a command, as `print_text` does.

    Raises:
      SystemExit: the pipe is closed (`EXIT_CLOSED_PIPE`), or the text can't be written
        (`EXIT_BAD_INPUT`, with a message on standard error).
    """
    if fault := _print(text, sys.stdout):
        _end(fault)


def is_interactive() -> bool:
    """Whether standard output is a terminal that can overwrite a line."""
    stream = sys.stdout
    if stream is None or stream.closed or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def quiet_seconds() -> float:
    """Returns the time since the last line was printed."""
    return time.monotonic() - _printed


def print_next(text: str) -> None:
    """Prints a suggested next step after a result, on a terminal only."""
    if is_interactive():
        print_text(f"next      {text}")


def main_command() -> str:
    """Returns how training and evaluation are started from the working directory."""
    checkout = os.path.isfile("main.py") and os.path.isdir("xkd_jax")
    return "python main.py" if checkout else "python -m xkd_jax"


@contextlib.contextmanager
def guarded_output() -> Iterator[None]:
    """Wraps a whole command: unwritten output at its end can't change its exit status.

    Raises:
      SystemExit: as `print_result`, for text printed in other ways (the lines of --help).
    """
    atexit.register(_discard_unwritten)  # after a traceback too
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
    """A stream that keeps the error of a failed write, even if the writer ignores it."""

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


def _print(text: str, file: TextIO | None) -> OSError | None:
    """Prints lines; returns the error of the write, or None."""
    global _printed
    _printed = time.monotonic()
    if file is None or file.closed:  # closed by `>&-`
        return None
    lines = "\n".join(map(escaped, text.split("\n")))
    encoding = getattr(file, "encoding", None) or "utf-8"
    lines = lines.encode(encoding, "backslashreplace").decode(encoding)
    try:
        with _above_bars(file):
            print(lines, file=file, flush=True)
    except OSError as error:
        return error
    return None


def _above_bars(file: TextIO) -> contextlib.AbstractContextManager[None]:
    """Prints above a progress bar (`activity`), if there is one."""
    library = sys.modules.get("tqdm")
    return library.tqdm.external_write_mode(file=file) if library else contextlib.nullcontext()


def print_error(sentence: str) -> None:
    """Prints text as one escaped line on standard error; never raises."""
    _print(escaped(sentence), sys.stderr)


def _end(fault: OSError) -> NoReturn:
    _discard_unwritten()
    if isinstance(fault, BrokenPipeError):
        raise SystemExit(EXIT_CLOSED_PIPE)
    print_error(
        f"error: Standard output can't be written to ({_reason(fault)}): free disk space, or"
        " redirect it to another file."
    )
    raise SystemExit(EXIT_BAD_INPUT)


def _flush(file: TextIO | None) -> OSError | None:
    """Flushes a stream; returns the error, or None."""
    try:
        if file is not None and not file.closed:
            file.flush()
    except OSError as error:
        return error
    return None


def _discard_unwritten() -> None:
    """Discards unwritten output: a failed flush at exit would change the status."""
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
