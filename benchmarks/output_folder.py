"""The output folder of a benchmark, in which the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError


def check_same(output: Path, asked: dict[str, Any]) -> None:
    """Creates the folder, or refuses one with results of other settings.

    Raises:
      UserError: the settings differ.
    """
    file = output / "settings.json"
    if file.exists() and (made := json.loads(file.read_text(encoding="utf-8"))) != asked:
        raise UserError(f"{output} was made with {made}: give another --output.")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asked), encoding="utf-8")
