"""The folder that a benchmark's command keeps its work in, to go on there another time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError


def check_same(output: Path, asked: dict[str, Any]) -> None:
    """Makes the folder, or refuses one whose work was done with other settings.

    Raises:
      UserError: the settings differ.
    """
    file = output / "settings.json"
    if file.exists() and (made := json.loads(file.read_text(encoding="utf-8"))) != asked:
        raise UserError(f"{output} was made with {made}: give another --output.")
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asked), encoding="utf-8")
