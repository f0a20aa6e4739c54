"""Checkpoints of named PyTrees, with the record of the run that wrote them.

Each item can be read alone. Orbax writes a checkpoint atomically, in a folder by renaming it
(`folder_checkpoints`), in a bucket as `bucket_checkpoints` describes; digests of its arrays are
saved with it, to detect corruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from types import TracebackType
from typing import NoReturn, Self

import orbax.checkpoint as ocp

from data_pipelines.errors import StoppedError, UnreachableError, UserError
from xkd_jax.config import value_checks
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import lost_process_error, on_main, print_on_main
from xkd_jax.training.checkpoints.array_digest import digests
from xkd_jax.training.checkpoints.array_handler import report_failed_saves_once, tree_handler
from xkd_jax.training.checkpoints.bucket_checkpoints import BucketCheckpoints
from xkd_jax.training.checkpoints.checkpoint_errors import DamagedError, file_errors
from xkd_jax.training.checkpoints.folder_checkpoints import FolderCheckpoints
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.saved_checkpoint import (
    confirm,
    read_checked,
    read_record,
    saved_folder,
    step_folders,
    step_of,
)

_LISTED_SECONDS = 90  # longest age of a listing; NFS caches for 60 s


class ItemCheckpoints:
    """Saves named PyTrees with the record of the run that wrote them, and restores them.

    Attributes:
      directory: folder or URL of the checkpoints, one folder for each step.
    """

    def __init__(
        self,
        directory: PurePath,
        config: CheckpointConfig,
        now: RunRecord,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory and creates it if necessary.

        Args:
          directory: folder or URL for these checkpoints only.
          config: which checkpoints are kept.
          now: record of the run that writes and restores them.
          check_lease: called before writing; raises on every process if another run holds the
            folder's lease.

        Raises:
          UserError: the directory can't be created or read.
        """
        self._now, self._check_lease = now, check_lease
        self._unconfirmed: RunRecord | None = None
        self._manager: BucketCheckpoints | FolderCheckpoints
        self.directory: PurePath
        if not isinstance(directory, Path):
            value_checks.checkpoints_folder("The checkpoints' folder", str(directory))
            self.directory = directory
            self._manager = BucketCheckpoints(directory, config, _handlers(), check_lease)
            return
        # TensorStore accepts no `..`, and the target of a link must not change during a run.
        self.directory = Path(os.path.realpath(directory))
        with file_errors(f"The checkpoints' directory {directory} can't be used"):
            self._manager = FolderCheckpoints(self.directory, config, _handlers(), check_lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if lost_process_error(error):
            return  # waiting for a save that needs the lost process would block
        if error is None:
            self.wait()
        with self._writing():
            self._manager.close()

    def started_from(self, weights: dict[str, str]) -> None:
        """Adds the source of the encoders' initial weights to the run's record."""
        self._now = dataclasses.replace(self._now, initial_weights=weights)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until every save is on disk, and checks that it can be read.

        Raises:
          UserError: a checkpoint can't be written.
          UnreachableError: for a transient reason, or it can't be read.
          LostProcessError: the connection to another process broke.
        """
        with self._writing():
            self._manager.wait_until_finished()
        if (record := self._unconfirmed) is not None:
            self._unconfirmed = None
            on_main(lambda: confirm(saved_folder(self.directory, record.step), record))

    def stop(self, step: int) -> NoReturn:
        """Waits for the save of a preempted run, and ends the run.

        Args:
          step: the step that is being saved.

        Raises:
          StoppedError: the checkpoint is on disk.
          UserError: it can't be written.
        """
        self.wait()
        raise StoppedError(
            f"after step {step}, as requested; its state is saved in {self.directory}: run the same"
            " command again to resume."
        )

    def check(self) -> None:
        """Raises the error of a save that failed in the meantime; every process must call it.

        Raises:
          UserError: a checkpoint can't be written, or another run holds the folder's lease.
        """
        self._check_lease()
        with self._writing():
            self._manager.check_for_errors()

    def save_items(self, step: int, items: dict[str, Tree]) -> None:
        """Starts to save a checkpoint and returns; the arrays may be donated afterwards.

        Args:
          step: number of updates made.
          items: {name: PyTree of arrays with 4-byte dtypes}.

        Raises:
          UserError: this checkpoint or the one before can't be written, the directory has one of
            this or a later step, or another run holds its lease.
          UnreachableError: as `wait`.
          LostProcessError: as `wait`.
        """
        report_failed_saves_once()
        self.wait()
        found = {name: digests(item) for name, item in items.items()}
        record = dataclasses.replace(self._now, step=step, digests=found)
        with self._writing():
            started = self._manager.save(
                step,
                args=ocp.args.Composite(
                    run=ocp.args.JsonSave(record.to_json()),
                    **{name: ocp.args.PyTreeSave(item) for name, item in items.items()},
                ),
            )
        if not started:  # Orbax skips steps up to its newest one
            raise UserError(
                f"The checkpoint of step {step} was not saved, as {self.directory} holds one of"
                f" step {self.latest()}: let no other run write there, or give another --workdir."
            )
        self._unconfirmed = record

    def restore_items(self, like: dict[str, Tree]) -> dict[str, Tree] | None:
        """Reads the newest intact checkpoint.

        Newer, damaged checkpoints are renamed, so that the run can save those steps again.

        Args:
          like: shapes, dtypes and shardings of the items, as `jax.ShapeDtypeStruct`.

        Returns:
          {name: PyTree of arrays}, or None without a checkpoint.

        Raises:
          UserError: the checkpoint is of a run with other data or fixed settings, or none is
            intact.
          UnreachableError: a file system still lists a folder that was renamed.
        """
        on_main(self._manager.abandon_interrupted)
        damaged: dict[PurePath, str] = {}
        items = None
        for folder in step_folders(self.directory):
            if (items := self.restore_newer(like, step_of(folder))) is not None:
                break
            try:
                items = self._read(folder, like)
            except DamagedError as damage:
                print_on_main(f"damaged   the checkpoint of step {folder.name}: {damage}")
                damaged[folder] = str(damage)
            else:
                print_on_main(f"resume    from step {folder.name}, {self.directory}")
                break
        else:
            items = self.restore_newer(like, -1)
        if damaged and items is None:
            raise UserError(
                f"No checkpoint in {self.directory} is intact: put back a copy of one, or give"
                " another --workdir to start again; nothing there was changed."
            )
        self._set_aside(damaged)
        return items

    def restore_newer(self, like: dict[str, Tree], step: int) -> dict[str, Tree] | None:
        """Reads the newest checkpoint of another place, if it is of a later step.

        Args:
          like: as in `restore_items`.
          step: of a checkpoint in the directory; -1: there is no intact one.

        Returns:
          {name: PyTree of arrays}, or None without another place or a later step.
        """
        return None

    def _read(self, folder: PurePath, like: dict[str, Tree]) -> dict[str, Tree]:
        saved = read_record(folder)
        saved.refuse_other(self._now, self.directory)
        items = {name: read_checked(folder, saved, name, part) for name, part in like.items()}
        self._continue(saved)
        return items

    def _continue(self, saved: RunRecord) -> None:
        """Prints changes since the run that saved a checkpoint; copies its `initial_weights`."""
        for change in saved.changes(self._now)[0]:
            print_on_main(f"changed   {change}")
        self.started_from(saved.initial_weights)

    def _set_aside(self, damaged: dict[PurePath, str]) -> None:
        def rename() -> None:
            with file_errors(f"A damaged checkpoint in {self.directory} can't be renamed"):
                for folder, reason in damaged.items():
                    self._manager.set_aside(folder.name, reason)

        on_main(rename)
        # Other hosts of a network file system may list the old names for some time.
        names = {folder.name for folder in damaged}
        for _ in range(_LISTED_SECONDS):
            self._manager.reload()
            listed = {folder.name for folder in step_folders(self.directory)}
            if not names & (listed | set(map(str, self._manager.all_steps()))):
                return
            time.sleep(1)
        raise UnreachableError(
            f"{self.directory} still lists folders that another process renamed: run the same"
            " command again."
        )

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return file_errors(f"A checkpoint can't be written to {self.directory}")


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(None, ocp.args.PyTreeSave, tree_handler())
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return registry
