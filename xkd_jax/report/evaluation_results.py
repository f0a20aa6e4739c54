"""Results of evaluations for tables, read from files and folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.report import result_tables
from xkd_jax.training import result_file
from xkd_jax.training.result_file import FILE, Result
from xkd_jax.training.run_results import files_below


def load(paths: Sequence[str]) -> list[Result]:
    """Reads result files, each one once.

    Args:
      paths: files, or folders that contain them.

    Raises:
      UserError: a folder contains no result file, or a file is not a result.
    """
    files: dict[PurePath, None] = {}
    for path in map(storage.location, paths):
        found = files_below(path, FILE) if storage.is_folder(str(path)) else [path]
        if not found or not storage.exists(str(found[0])):
            raise UserError(f"{path} has no {FILE}: give the workdirs of finished evaluations.")
        files |= dict.fromkeys(f.resolve() if isinstance(f, Path) else f for f in found)
    return [_read(file) for file in files]


def _read(file: PurePath) -> Result:
    result = result_file.read(file)
    try:
        result_tables.tables([result])
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise result_file.not_a_result(file, error) from None
    return result
