"""Reading of saved checkpoints, with a comparison of their digests."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Container, Iterator
from pathlib import Path, PurePath
from typing import Any

import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from data_pipelines.errors import UnreachableError
from data_pipelines.format import storage
from xkd_jax.networks.tree import Tree
from xkd_jax.training.checkpoints.array_digest import digests
from xkd_jax.training.checkpoints.array_handler import tree_handler
from xkd_jax.training.checkpoints.array_stores import kvstore, use_our_stores
from xkd_jax.training.checkpoints.checkpoint_errors import (
    DamagedError,
    file_errors,
    first_line,
    root_cause,
    same_reading_error,
)
from xkd_jax.training.checkpoints.run_record import RunRecord

_STEP_NAME = re.compile("[0-9]+")
# In a bucket (`bucket_checkpoints`): the name in a bucket, the last object of a checkpoint (by
# Orbax's convention for stores), and the suffixes of the objects beside it.
_NAME_IN_BUCKET = re.compile(r"[0-9]+(\.[0-9]+)?")
COMMITTED = "commit_success.txt"
BEGUN, DAMAGED, INTERRUPTED = ".begun", ".damaged", ".interrupted"

use_our_stores()


def step_of(folder: PurePath) -> int:
    """Returns the step that the name of a checkpoint's folder states."""
    return int(folder.name.partition(".")[0])


def step_folders(directory: PurePath) -> list[PurePath]:
    """Returns the folders of a run's checkpoints, newest first, without reading them.

    Their names are step numbers. Unfinished and damaged checkpoints have other names; in a bucket
    they lack the last object, or have an object beside them.

    Args:
      directory: folder or URL of the checkpoints.

    Raises:
      UserError: the folder can't be listed.
      UnreachableError: the store does not respond.
    """
    if not isinstance(directory, Path):
        return list(in_bucket(directory))
    with file_errors(f"The checkpoints' directory {directory} can't be listed"):
        named = [path for path in directory.iterdir() if _STEP_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (int(path.name), path.name), reverse=True)


def is_marked(name: str, files: Container[str]) -> bool:
    """Whether a save in a bucket is marked as damaged or interrupted, and so is no checkpoint.

    Args:
      name: of its folder.
      files: names of the objects beside the folder.
    """
    return f"{name}{DAMAGED}" in files or f"{name}{INTERRUPTED}" in files


def in_bucket(directory: PurePath) -> Iterator[PurePath]:
    """Yields the folders of the complete checkpoints in a bucket, newest first.

    Each one takes a request, so a caller should stop at the one it needs.

    Args:
      directory: URL of the checkpoints.

    Raises:
      UnreachableError: the store does not respond.
    """
    try:
        files, folders = storage.listed(str(directory))
    except FileNotFoundError:
        return
    names = [
        name for name in folders if _NAME_IN_BUCKET.fullmatch(name) and not is_marked(name, files)
    ]
    for name in sorted(names, key=lambda n: ([*map(int, n.split("."))], n), reverse=True):
        if storage.exists(str(directory / name / COMMITTED)):
            yield directory / name


def saved_folder(directory: PurePath, step: int) -> PurePath:
    """Returns the folder of a step's checkpoint, which exists.

    Args:
      directory: folder or URL of the checkpoints.
      step: of the checkpoint.
    """
    if isinstance(directory, Path):
        return directory / str(step)
    of_step = (folder for folder in in_bucket(directory) if step_of(folder) == step)
    return next(of_step, directory / str(step))


def read_record(folder: PurePath) -> RunRecord:
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
        if folder.name.partition(".")[0] != str(content["step"]):
            raise DamagedError(
                f"it was saved as step {content['step']}, so the folder was renamed or copied"
            )
    return RunRecord.from_json(content, folder)


def _record_of(folder: PurePath) -> dict[str, Any]:
    return RunRecord.verified(json.loads(storage.read(str(folder / "run" / "metadata"))))


def confirm(folder: PurePath, record: RunRecord) -> None:
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


def read_checked(folder: PurePath, record: RunRecord, name: str, like: Tree) -> Tree:
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


def read_item(folder: PurePath, like: Tree) -> Tree:
    """Reads one item of a checkpoint, without comparing digests.

    Args:
      folder: folder of the item: `checkpoints/STEP/student`, `teacher` or `rest`.
      like: shapes, dtypes and shardings of the item, as `jax.ShapeDtypeStruct`.
    """
    wanted = ocp.checkpoint_utils.construct_restore_args(like)
    return tree_handler().restore(
        epath.Path(str(folder)), args=ocp.args.PyTreeRestore(like, restore_args=wanted)
    )


def _read_index(folder: PurePath) -> None:
    """Checks that an item's index can be read.

    Raises:
      ValueError: it is damaged, empty or missing.
    """
    spec = {"driver": "ocdbt", "base": kvstore(str(folder))}
    if not tensorstore.KvStore.open(spec).result().list().result():
        raise ValueError(f"the index in {folder} is empty or missing")
