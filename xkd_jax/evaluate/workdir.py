"""Checks of an evaluation's output folders, before anything is read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path, PurePath

from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from xkd_jax.parallel.processes import on_main


def check(workdir: PurePath, features: str) -> None:
    """Creates the folders, on the main process.

    Args:
      workdir: folder of the evaluation.
      features: folder of stored features; empty: in the workdir.

    Raises:
      UserError: the workdir is a pretraining run's, or a folder can't be created or written to.
    """
    on_main(lambda: _check(workdir, features))


def _check(workdir: PurePath, features: str) -> None:
    if _is_of_pretraining(workdir):
        raise UserError(
            f"{workdir} is the folder of a pretraining run: give another --workdir, and the run by"
            " --config.checkpoint."
        )
    _make(workdir, "--workdir", os.W_OK)
    if features:
        _make(
            storage.location(features), "--config.features", os.R_OK
        )  # reading suffices if all features are stored


def _is_of_pretraining(workdir: PurePath) -> bool:
    if storage.is_folder(str(workdir / "checkpoints")):
        return True
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(storage.read(str(workdir / "config.json")))
        return isinstance(content, dict) and "protocol" not in content
    return False


def _make(folder: PurePath, flag: str, mode: int) -> None:
    if not isinstance(folder, Path):
        return  # a bucket has no folders; the lease checks what can be written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, mode | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        sentence = f"{folder} can't be used as a folder ({error.strerror}): give another by {flag}."
        raise file_error(error, sentence, writing=True) from None
