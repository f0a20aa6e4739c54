"""Checkpoints of the training state.

The position in the data is the step: the pipeline can start at any step. Student, teacher and the
rest of the state are separate items that can be read alone. Orbax writes a checkpoint atomically,
in a folder by renaming it, in a bucket as `bucket_checkpoints` describes; digests of its arrays are
saved with it, to detect corruption.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from types import TracebackType
from typing import NoReturn, Protocol, Self

import jax
import orbax.checkpoint as ocp

from data_pipelines import durable
from data_pipelines.errors import StoppedError, UnreachableError, UserError
from data_pipelines.read.shuffle import blocks
from xkd_jax.config import value_checks
from xkd_jax.config.pretraining import CheckpointConfig, Config
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import lost_process_error, on_main, print_on_main
from xkd_jax.training.checkpoints.array_digest import digests
from xkd_jax.training.checkpoints.array_handler import report_failed_saves_once, tree_handler
from xkd_jax.training.checkpoints.bucket_checkpoints import BucketCheckpoints, set_aside
from xkd_jax.training.checkpoints.checkpoint_errors import DamagedError, file_errors
from xkd_jax.training.checkpoints.literal_paths import take_folders_literally
from xkd_jax.training.checkpoints.monotonic_limits import use_monotonic_clock
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.saved_checkpoint import (
    confirm,
    read_checked,
    read_record,
    saved_folder,
    step_folders,
    step_of,
)

_UNFINISHED = ".orbax-checkpoint-tmp"  # suffix of a checkpoint's folder until it is complete
_LISTED_SECONDS = 90  # longest age of a listing; NFS caches for 60 s

take_folders_literally()
use_monotonic_clock()


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its detection of preemption, which `preemption` does.

    Both would use JAX's single counter of synchronization points.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


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
        self._manager: BucketCheckpoints | _Manager
        self.directory: PurePath
        if not isinstance(directory, Path):
            value_checks.checkpoints_folder("The checkpoints' folder", str(directory))
            self.directory = directory
            self._manager = BucketCheckpoints(directory, config, _handlers(), check_lease)
            return
        # TensorStore accepts no `..`, and the target of a link must not change during a run.
        self.directory = Path(os.path.realpath(directory))
        with file_errors(f"The checkpoints' directory {directory} can't be used"):
            self._manager = _Manager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=config.keep_last or None,
                    keep_period=config.keep_every or None,
                    enable_async_checkpointing=True,
                    async_options=ocp.AsyncOptions(
                        post_finalization_callback=lambda: _sync(Path(self.directory))
                    ),
                ),
                handler_registry=_handlers(),
            )

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
        """Adds to the run's record where its encoders started from."""
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
          UserError: this checkpoint or the one before can't be written, or the directory has one
            of this or a later step.
          UnreachableError: as `wait`.
          LostProcessError: as `wait`.
        """
        report_failed_saves_once()
        self.wait()
        found = {name: digests(item) for name, item in items.items()}
        record = dataclasses.replace(self._now, step=step, digests=found)
        self._check_lease()
        with self._writing():
            self._try_to_write()
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

    def _try_to_write(self) -> None:
        """Raises an error of writing that Orbax would report after minutes."""
        if not isinstance(self.directory, Path):
            return  # a save begins with a write of its own
        if not self.directory.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is missing")
        os.rmdir(tempfile.mkdtemp(prefix="try-", dir=self.directory))

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
        """
        if isinstance(self._manager, BucketCheckpoints):
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
          {name: PyTree of arrays}, or None: there is no such place.
        """
        return None

    def _read(self, folder: PurePath, like: dict[str, Tree]) -> dict[str, Tree]:
        saved = read_record(folder)
        saved.refuse_other(self._now, self.directory)
        items = {name: read_checked(folder, saved, name, part) for name, part in like.items()}
        self._continue(saved)
        return items

    def _continue(self, saved: RunRecord) -> None:
        """Prints what differs from the run that saved a checkpoint, and takes over its start."""
        for change in saved.changes(self._now)[0]:
            print_on_main(f"changed   {change}")
        self.started_from(saved.initial_weights)

    def _set_aside(self, damaged: dict[PurePath, str]) -> None:
        def rename() -> None:
            with file_errors(f"A damaged checkpoint in {self.directory} can't be renamed"):
                for folder, reason in damaged.items():
                    if isinstance(folder, Path):
                        folder.rename(_unused_name(folder))
                    else:
                        set_aside(folder, reason)

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


class SecondTier(Protocol):
    """The methods of `local_checkpoints.LocalCheckpoints` that `Checkpoints` calls."""

    def exist(self) -> bool: ...

    def save(self, step: int, items: dict[str, Tree], record: RunRecord) -> None: ...

    def restore(
        self, like: dict[str, Tree], after: int, check: Callable[[RunRecord], None]
    ) -> tuple[RunRecord, dict[str, Tree]] | None: ...


class Checkpoints(ItemCheckpoints):
    """Saves and restores the state of a pretraining run; errors are those of `ItemCheckpoints`."""

    def __init__(
        self,
        directory: PurePath,
        config: Config,
        records: int,
        data_digest: str,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory and creates it if necessary.

        Args:
          directory: folder or URL for these checkpoints only.
          config: the run's config.
          records: number of records of the run's data set.
          data_digest: digest of its content (`Dataset.digest`).
          check_lease: as in `ItemCheckpoints`.
        """
        parts = blocks(records, config.data.shuffle_window)
        now = RunRecord.of(dataclasses.asdict(config), records, data_digest, parts)
        super().__init__(directory, config.checkpoint, now, check_lease)
        self._local: SecondTier | None = None
        self._local_name = f"the hosts' folders {config.local_checkpoints.dir}"

    def keep_local(self, local: SecondTier) -> None:
        """Adds checkpoints on the hosts' own disks; `restore` reads the newest of both kinds."""
        self._local = local

    def exist(self) -> bool:
        """Whether there is a checkpoint to restore, intact or not; every process must call it."""
        return self.latest() is not None or (self._local is not None and self._local.exist())

    def save(self, step: int, state: TrainState) -> None:
        """Starts to save a state and returns; the state may be donated afterwards."""
        self.save_items(step, _items(state))

    def save_locally(self, step: int, state: TrainState) -> None:
        """Starts to save a state on the hosts' own disks and returns, like `save`."""
        if self._local is not None:
            record = dataclasses.replace(self._now, step=step)
            self._local.save(step, _items(state), record)

    def restore_newer(self, like: dict[str, Tree], step: int) -> dict[str, Tree] | None:
        """Reads the newest checkpoint of the hosts' own disks, if it is of a later step."""
        if self._local is None:
            return None
        found = self._local.restore(
            like, step, lambda saved: saved.refuse_other(self._now, self._local_name)
        )
        if found is None:
            return None
        record, items = found
        self._continue(record)
        print_on_main(f"resume    from step {record.step}, {self._local_name}")
        return items

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the newest intact state, or None without a checkpoint.

        Args:
          like: the result of `like`.
        """
        items = self.restore_items(_items(like))
        if items is None:
            return None
        return TrainState(student=items["student"], teacher=items["teacher"], **items["rest"])


def _sync(directory: Path) -> None:
    """Syncs a checkpoint to disk, so that it survives a power failure.

    Orbax calls this on the main process when all files are written, before it renames the folder to
    the step's number and removes older ones.
    """
    for path in directory.iterdir():
        if path.name.endswith(_UNFINISHED):
            durable.sync_tree(str(path))


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(None, ocp.args.PyTreeSave, tree_handler())
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return registry


def _items(state: TrainState) -> dict[str, Tree]:
    rest = {"step": state.step, "centers": state.centers, "optimizer": state.optimizer}
    return {"student": state.student, "teacher": state.teacher, "rest": rest}


def _unused_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.damaged{n or ''}") for n in range(1000))
    return next(name for name in names if not name.exists())


def like(shapes: TrainState, shardings: TrainState) -> TrainState:
    """Returns the `jax.ShapeDtypeStruct`s with shardings that `Checkpoints.restore` needs.

    Args:
      shapes: the state, with a shape and dtype at each leaf.
      shardings: the same tree, with a sharding at each leaf.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
