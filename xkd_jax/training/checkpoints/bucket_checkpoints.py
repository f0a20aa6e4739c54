"""Checkpoints in a bucket, where nothing can be renamed.

A checkpoint's objects are below `STEP/`; it is complete when its last object, Orbax's commit file,
exists. Each save first creates `STEP.begun`, which only one save can do. If that exists (an earlier
save of the step was interrupted, or its checkpoint is damaged), the new save is `STEP.1`, and so
on: objects of two saves never mix. An object `STEP.damaged` marks a damaged checkpoint. When a run
starts, it marks interrupted saves by `STEP.interrupted`: if the process of such a save was only
suspended and completes it later, the checkpoint still does not count.

A process that was suspended until another one held the run's lease neither saves nor removes
anything: it checks its lease after it has created `STEP.begun`, which the other process would find,
and after it has listed the objects to remove, which include no save of the other process.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from pathlib import PurePath

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.path import atomicity

from data_pipelines import terminal
from data_pipelines.errors import UnreachableError
from data_pipelines.format import conditional, storage
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.parallel.processes import number_of_main, on_main
from xkd_jax.training.checkpoints.saved_checkpoint import (
    BEGUN,
    COMMITTED,
    DAMAGED,
    INTERRUPTED,
    in_bucket,
    is_marked,
    step_of,
)


class BucketCheckpoints:
    """The methods of Orbax's `CheckpointManager` that `ItemCheckpoints` calls, for a URL."""

    def __init__(
        self,
        directory: PurePath,
        config: CheckpointConfig,
        handlers: ocp.handlers.CheckpointHandlerRegistry,
        check_lease: Callable[[], None],
    ):
        """Creates an object without reading or writing.

        Args:
          directory: URL of the checkpoints' folder.
          config: which checkpoints are kept.
          handlers: of the items.
          check_lease: raises on every process if another run holds the folder's lease.
        """
        self._directory, self._config = directory, config
        self._check_lease = check_lease
        whole = atomicity.CommitFileTemporaryPath
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(temporary_path_class=whole),
                handler_registry=handlers,
            ),
            temporary_path_class=whole,
        )
        self._saved = False

    def all_steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, newest first."""
        return [*map(step_of, in_bucket(self._directory))]

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return next(map(step_of, in_bucket(self._directory)), None)

    def reload(self) -> None:
        """Does nothing: a listing shows what there is."""

    def abandon_interrupted(self) -> None:
        """Marks interrupted saves that are newer than all complete checkpoints.

        Only the process that holds the run's lease may call it, on behalf of all.

        Raises:
          UserError: the bucket can't be written.
        """
        newest = self.latest_step()
        try:
            files, _ = storage.listed(str(self._directory))
        except FileNotFoundError:
            return
        begun = {self._directory / name.removesuffix(BEGUN) for name in files if BEGUN in name}
        for folder in begun - set(in_bucket(self._directory)):
            is_newest = newest is None or step_of(folder) >= newest
            if is_newest and not is_marked(folder.name, files):
                storage.write(f"{folder}{INTERRUPTED}", b"")

    def set_aside(self, name: str, reason: str) -> None:
        """Marks a checkpoint as damaged, so that it is not listed; nothing is removed.

        Args:
          name: of its folder.
          reason: the content of the mark.

        Raises:
          UserError: the bucket can't be written.
        """
        storage.write(f"{self._directory / name}{DAMAGED}", reason.encode())

    def save(self, step: int, args: ocp.args.Composite) -> bool:
        """Starts to save a checkpoint; returns False if one of this or a later step exists.

        Raises:
          UserError: the bucket can't be written, or another run holds its lease.
        """
        number = number_of_main(lambda: self._claim(step))
        self._check_lease()
        if number_of_main(lambda: next(map(step_of, in_bucket(self._directory)), -1)) >= step:
            return False
        name = f"{step}.{number}" if number else str(step)
        self._checkpointer.save(epath.Path(str(self._directory / name)), args=args)
        self._saved = True
        return True

    def _claim(self, step: int) -> int:
        """Returns the number of this save among those of its step, from 0."""
        for number in itertools.count():
            name = f"{step}.{number}" if number else str(step)
            url = str(self._directory / f"{name}{BEGUN}")
            taken = conditional.write(url, secrets.token_bytes(16), None) is None
            # A checkpoint that was copied by hand may lack `STEP.begun`.
            if not taken and not storage.is_folder(str(self._directory / name)):
                return number
        raise AssertionError

    def wait_until_finished(self) -> None:
        """Waits for the save, then removes older checkpoints and interrupted saves.

        Raises:
          UserError: another run holds the bucket's lease.
        """
        self._checkpointer.wait_until_finished()
        if self._saved:
            self._saved = False
            old, interrupted = list[PurePath](), list[PurePath]()
            on_main(lambda: self._list_old(old, interrupted))
            self._check_lease()
            on_main(lambda: self._remove(old, interrupted))

    def check_for_errors(self) -> None:
        """Raises the error of a save that failed."""
        self._checkpointer.check_for_errors()

    def close(self) -> None:
        """Waits for the save."""
        self._checkpointer.close()

    def _list_old(self, old: list[PurePath], interrupted: list[PurePath]) -> None:
        complete = list(in_bucket(self._directory))
        kept, every = self._config.keep_last or len(complete), self._config.keep_every
        old += [f for f in complete[kept:] if not every or step_of(f) % every]
        files, folders = storage.listed(str(self._directory))
        whole = {folder.name for folder in complete}
        interrupted += [
            self._directory / name
            for name in folders
            if name not in whole and f"{name}{BEGUN}" in files and f"{name}{DAMAGED}" not in files
        ]

    def _remove(self, old: list[PurePath], interrupted: list[PurePath]) -> None:
        try:
            for folder in (*old, *interrupted):
                # The commit file is removed first, so that the remaining objects are no checkpoint.
                # The name of an interrupted save is not reused, as a suspended process may still
                # write there.
                storage.remove(str(folder / COMMITTED))
                storage.remove_folder(str(folder))
            for folder in old:
                storage.remove(f"{folder}{BEGUN}")
        except UnreachableError as error:
            terminal.print_error(
                f"Old checkpoints in {self._directory} can't be removed ({error}): the run"
                " continues and keeps them; remove them by hand, or allow it to delete objects."
            )
