"""A standard output that says it is a terminal of 100 columns, and keeps what is written."""

import io
import re

_PIECES = re.compile(r"\n|\r|\x1b\[A|[^\n\r\x1b]+")


class FakeTerminal(io.StringIO):
    """To be set as `sys.stdout`."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def in_place(self) -> list[str]:
        """Every text that was shown, one after the other, whether it stayed or not."""
        return [text for text in _PIECES.findall(self.getvalue()) if text.strip(" \n\r\x1b[A")]

    def screen(self) -> list[str]:
        """The lines that are there at the end, without empty ones."""
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
    """Makes standard output one."""
    out = FakeTerminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    return out
