"""A standard output that reports a terminal of 100 columns and records its text."""

import io
import re

_PIECES = re.compile(r"\n|\r|\x1b\[A|[^\n\r\x1b]+")


class FakeTerminal(io.StringIO):
    """A replacement of `sys.stdout`."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def in_place(self) -> list[str]:
        """All texts in order, also those that were overwritten."""
        return [text for text in _PIECES.findall(self.getvalue()) if text.strip(" \n\r\x1b[A")]

    def screen(self) -> list[str]:
        """The lines that remain at the end, without empty ones."""
        rows, row, column = [""], 0, 0
        for piece in _PIECES.findall(self.getvalue()):
            if piece == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            elif piece == "\r":
                column = 0
            elif piece == "\x1b[A":
                row -= 1
            else:
                old = rows[row].ljust(column)
                rows[row] = old[:column] + piece + old[column + len(piece) :]
                column += len(piece)
        return [text.rstrip() for text in rows if text.strip()]


def use(monkeypatch) -> FakeTerminal:
    """Replaces standard output by a fake terminal."""
    out = FakeTerminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return out
