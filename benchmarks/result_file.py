"""The file of a benchmark's results, as JSON: written after each result, read for its tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.durable import replacing
from data_pipelines.errors import UserError


def write(file: Path, results: dict[str, Any]) -> None:
    """Writes a file of results in place of the one before.

    Raises:
      OSError: it can't be written; the one before is unchanged.
    """
    with replacing(str(file), f"{file}.unfinished") as opened:
        opened.write((json.dumps(results, indent=2) + "\n").encode())


def load(
    file: Path, kind: str, holds: Callable[[dict[str, Any]], object],
    advice: str = "give another file",
) -> dict[str, Any]:  # fmt: skip
    """Reads a file of results.

    Args:
      file: of a benchmark.
      kind: name of the results in messages.
      holds: whether a JSON object has such results; it may raise LookupError or TypeError.
      advice: what to do about another file.

    Raises:
      UserError: the file can't be read, or has no such results.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict) and holds(found):
            return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} can't be read as {kind} ({error}): {advice}.") from None
    raise UserError(f"{file} holds no {kind}: {advice}.")
