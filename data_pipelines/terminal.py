"""Printing of text that holds names from outside: of files, classes, splits and data sets.

Every command prints through this module. A character that the stream's encoding lacks is printed as
an escape, so no name ends a command. So are control characters, escape sequences and marks of
writing direction, so no name moves the cursor, changes colors or hides the rest of its line. Files
keep the true names.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

_SPACE = "Zs"


def escaped(text: str) -> str:
    r"""Returns text with each character that is not visible as an escape (`\n`, `\x1b`, `\u202e`).

    For a name within other text: it takes one line.
    """
    return "".join(map(_visible, text))


def say(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Prints lines, escaped but for their line feeds.

    Args:
      text: one line or several.
      file: where to; None: standard output.
      end: is printed after it as given.
    """
    file = sys.stdout if file is None else file
    lines = "\n".join(map(escaped, text.split("\n")))
    encoding = getattr(file, "encoding", None) or "utf-8"
    lines = lines.encode(encoding, "backslashreplace").decode(encoding)
    print(lines, end=end, file=file, flush=True)


def complain(sentence: str) -> None:
    """Prints one line, whatever is in it, on standard error."""
    say(escaped(sentence), sys.stderr)


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == _SPACE:
        return character
    return character.encode("unicode_escape").decode("ascii")
