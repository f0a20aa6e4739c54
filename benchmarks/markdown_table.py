"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def lines(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yields the lines of a table.

    Args:
      head: names of the columns.
      rows: cells of each row; None is an empty one.
    """
    names = list(head)
    yield _line(names)
    yield "|---" * len(names) + "|"
    yield from map(_line, rows)


def text(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Returns a table as text, or "" for one without rows."""
    listed = list(rows)
    return "\n".join(lines(head, listed)) if listed else ""


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join('' if cell is None else str(cell) for cell in cells)} |"
