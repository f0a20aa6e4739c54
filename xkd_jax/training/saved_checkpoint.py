"""Reading of saved checkpoints, with a comparison of their digests."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import tensorstore

from data_pipelines.errors import UnreachableError
from xkd_jax.networks.tree import Tree
from xkd_jax.training.array_digest import digests
from xkd_jax.training.array_handler import tree_handler
from xkd_jax.training.checkpoint_errors import (
    DamagedError,
    file_errors,
    first_line,
    root_cause,
    same_reading_error,
)
from xkd_jax.training.run_record import RunRecord

_STEP_NAME = re.compile("[0-9]+")


def step_folders(directory: Path) -> list[Path]:
    """Returns the folders of a run's checkpoints, newest first, without reading them.

    Their names are step numbers. Unfinished and damaged checkpoints have other names.

    Args:
      directory: folder of the checkpoints.

    Raises:
      UserError: the folder can't be listed.
    """
    with file_errors(f"The checkpoints' directory {directory} can't be listed"):
        named = [path for path in directory.iterdir() if _STEP_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (int(path.name), path.name), reverse=True)


def read_record(folder: Path) -> RunRecord:
    """Reads the record of a checkpoint; every process must call it.

    Args:
      folder: `checkpoints/STEP`.

    Raises:
      DamagedError: it differs from what was saved, or was saved as another step.
      UserError: a process can't read it (`UnreachableError` for a transient reason), or another
        version of this program wrote it.
    """
    with same_reading_error(folder):
        content = _record_of(folder)
        if folder.name != str(content["step"]):
            raise DamagedError(
                f"it was saved as step {content['step']}, so the folder was renamed or copied"
            )
    return RunRecord.from_json(content, folder)


def _record_of(folder: Path) -> dict[str, Any]:
    return RunRecord.verified(json.loads((folder / "run" / "metadata").read_text(encoding="utf-8")))


def confirm(folder: Path, record: RunRecord) -> None:
    """Checks record and indexes of a checkpoint that was just saved.

    Args:
      folder: `checkpoints/STEP`.
      record: the record that was saved.

    Raises:
      UnreachableError: its record or the index of an item is missing or differs.
    """
    try:
        found = _record_of(folder)
        if found != dataclasses.asdict(record):
            raise ValueError("its record differs")
        for name in record.digests:
            _read_index(folder / name)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"The checkpoint {folder} was saved and can't be read back"
            f" ({first_line(root_cause(error))}): let nothing else write to that folder, and run"
            " the same command again."
        ) from error


def read_checked(folder: Path, record: RunRecord, name: str, like: Tree) -> Tree:
    """Reads one item of a checkpoint and compares its digests; every process must call it.

    Args:
      folder: `checkpoints/STEP`.
      record: the record of that checkpoint.
      name: `student`, `teacher` or `rest`.
      like: shapes, dtypes and shardings of the item, as `jax.ShapeDtypeStruct`.

    Raises:
      DamagedError: it differs from what was saved.
      UserError: a process can't read it (`UnreachableError` for a transient reason).
    """
    with same_reading_error(folder):
        _read_index(folder / name)
        item = read_item(folder / name, like)
    for path, value in digests(item).items():
        if record.digests[name].get(path) != value:
            raise DamagedError(f"the values of {name}{path} differ from those that were saved")
    return item


def read_item(folder: Path, like: Tree) -> Tree:
    """Reads one item of a checkpoint, without comparing digests.

    Args:
      folder: folder of the item: `checkpoints/STEP/student`, `teacher` or `rest`.
      like: shapes, dtypes and shardings of the item, as `jax.ShapeDtypeStruct`.
    """
    wanted = ocp.checkpoint_utils.construct_restore_args(like)
    return tree_handler().restore(folder, args=ocp.args.PyTreeRestore(like, restore_args=wanted))


def _read_index(folder: Path) -> None:
    """Checks that an item's index can be read.

    Raises:
      ValueError: it is damaged, empty or missing.
    """
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    if not tensorstore.KvStore.open(spec).result().list().result():
        raise ValueError(f"the index in {folder} is empty or missing")
