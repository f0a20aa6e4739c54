"""Checkpoints: the training state and the position in the data, saved and restored together.

The data position is the step itself: the pipeline starts anywhere from it. The items of a
checkpoint are separate, so that a student or a teacher can be read without the rest. Orbax makes
a checkpoint appear whole or not at all; the digests of its arrays, saved with it, show later
whether it still is what was saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import jax
import orbax.checkpoint as ocp
import tensorstore

from data_pipelines import durable
from data_pipelines.errors import StoppedError, UnreachableError, UserError, is_transient
from xkd_jax.config.pretraining import CheckpointConfig, Config
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import global_max, lost_process_error, on_main, print_on_main
from xkd_jax.training.array_digest import digests
from xkd_jax.training.array_handler import report_failed_saves_once, tree_handler
from xkd_jax.training.literal_paths import take_folders_literally
from xkd_jax.training.run_record import RunRecord

take_folders_literally()
report_failed_saves_once()


class _Manager(ocp.CheckpointManager):
    """Orbax's, but it leaves notices of preemption to `preemption`.

    It asks JAX for them by the step, and JAX keeps one count of such questions for all who ask.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class ItemCheckpoints:
    """The checkpoints of one run, in `directory`: named trees of arrays, and what they are of."""

    def __init__(
        self,
        directory: Path,
        config: CheckpointConfig,
        now: RunRecord,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory, or makes it.

        Args:
          directory: for these checkpoints alone.
          config: how many are kept.
          now: the run as it is this time.
          check_lease: raises on every process if another run has taken over; called before writing.

        Raises:
          UserError: the directory can't be made or read.
        """
        # TensorStore takes no `..`, and what a link leads to must not change during a run.
        self.directory = Path(os.path.realpath(directory))
        self._now, self._check_lease = now, check_lease
        self._unconfirmed: RunRecord | None = None
        with _explained(f"The checkpoints' directory {directory} can't be used"):
            self._manager = _Manager(
                self.directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=config.keep_last or None,
                    keep_period=config.keep_every or None,
                    enable_async_checkpointing=True,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._sync),
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
            return  # a save that needs the lost one would be waited for
        if error is None:
            self.wait()
        with self._writing():
            self._manager.close()

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, if there is one."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when every save that was started is on disk and was read back.

        Raises:
          UserError: one could not be written.
          UnreachableError: so, for a reason that may pass, or it can't be read back.
          LostProcessError: a process is gone that was to write a part.
        """
        with self._writing():
            self._manager.wait_until_finished()
        if (record := self._unconfirmed) is not None:
            self._unconfirmed = None
            on_main(lambda: _confirm(self.directory / str(record.step), record))

    def stop(self, step: int) -> NoReturn:
        """Ends a run that was asked to stop and has started to save this step.

        Raises:
          StoppedError: all is on disk.
          UserError: it could not be written.
        """
        self.wait()
        raise StoppedError(
            f"after step {step}, as asked, with all of it saved in {self.directory}: the same"
            " command goes on from there."
        )

    def check(self) -> None:
        """Looks whether a save has failed meanwhile, or another run has taken the folder over.

        Every process must call it.

        Raises:
          UserError: a save could not be written, or the run must not write any more.
        """
        self._check_lease()
        with self._writing():
            self._manager.check_for_errors()

    def save_items(self, step: int, items: dict[str, Tree]) -> None:
        """Starts saving and returns; the arrays may be donated afterwards.

        Raises:
          UserError: this checkpoint, or the one before, can't be written, or the directory holds a
            newer one; otherwise as `wait`.
        """
        self._check_lease()
        self.wait()
        found = {name: digests(item) for name, item in items.items()}
        record = dataclasses.replace(self._now, step=step, digests=found)
        with self._writing():
            self._try_to_write()
            started = self._manager.save(
                step,
                args=ocp.args.Composite(
                    run=ocp.args.JsonSave(record.to_json()),
                    **{name: ocp.args.PyTreeSave(item) for name, item in items.items()},
                ),
            )
        if not started:  # Orbax skips a step that isn't beyond its newest
            raise UserError(
                f"The checkpoint of step {step} was not saved, as {self.directory} holds one of"
                f" step {self.latest()}: let no other run write there, or give another --workdir."
            )
        self._unconfirmed = record

    def _sync(self) -> None:
        """Makes a checkpoint survive a power failure.

        Orbax calls this on the main process, when all of it is written; then it gives the folder
        the step's name, and removes older ones.
        """
        for path in self.directory.iterdir():
            if path.name.endswith(_UNFINISHED):
                durable.sync_tree(str(path))

    def _try_to_write(self) -> None:
        """Raises now what Orbax would tell of only when threads have waited for minutes."""
        if not self.directory.is_dir():
            raise FileNotFoundError(errno.ENOENT, "it has vanished")
        os.rmdir(tempfile.mkdtemp(prefix="try-", dir=self.directory))

    def restore_items(self, like: dict[str, Tree]) -> dict[str, Tree] | None:
        """Reads the newest checkpoint that is intact; None: there is no checkpoint.

        Damaged ones that are newer get another name, so that the run can save those steps again.

        Args:
          like: shapes, dtypes and shardings of the items, as `jax.ShapeDtypeStruct`.

        Raises:
          UserError: the checkpoint is of something else than the run as it is now, or none is
            intact.
        """
        damaged: list[Path] = []
        for folder in step_folders(self.directory):
            try:
                items = self._read(folder, like)
            except DamagedError as damage:
                print_on_main(f"damaged   the checkpoint of step {folder.name}: {damage}")
                damaged.append(folder)
                continue
            self._set_aside(damaged)
            print_on_main(f"resume    from step {folder.name}, {self.directory}")
            return items
        if damaged:
            raise UserError(
                f"No checkpoint in {self.directory} is intact: put back a copy of one, or give"
                " another --workdir to start again; nothing there was changed."
            )
        return None

    def _read(self, folder: Path, like: dict[str, Tree]) -> dict[str, Tree]:
        saved = read_record(folder)
        saved.refuse_other(self._now, self.directory)
        items = {name: read_checked(folder, saved, name, part) for name, part in like.items()}
        for change in saved.changes(self._now)[0]:
            print_on_main(f"changed   {change}")
        return items

    def _set_aside(self, folders: list[Path]) -> None:
        def rename() -> None:
            with _explained(f"A damaged checkpoint in {self.directory} can't be renamed"):
                for folder in folders:
                    folder.rename(_unused_name(folder))

        on_main(rename)
        # A network's file system may list the folders by their old names for a while elsewhere.
        names = {folder.name for folder in folders}
        for _ in range(_LISTED_SECONDS):
            self._manager.reload()
            listed = {folder.name for folder in step_folders(self.directory)}
            if not names & (listed | set(map(str, self._manager.all_steps()))):
                return
            time.sleep(1)
        raise UnreachableError(
            f"{self.directory} still lists what another process renamed: give the same command"
            " again."
        )

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return _explained(f"A checkpoint can't be written to {self.directory}")


class Checkpoints(ItemCheckpoints):
    """The checkpoints of a pretraining run; errors are those of `ItemCheckpoints`."""

    def __init__(
        self,
        directory: Path,
        config: Config,
        records: int,
        data_digest: str,
        check_lease: Callable[[], None] = lambda: None,
    ):
        """Opens the directory, or makes it.

        Args:
          directory: for these checkpoints alone.
          config: of the run.
          records: in the run's data set.
          data_digest: of its content (`Dataset.digest`).
          check_lease: as in `ItemCheckpoints`.
        """
        now = RunRecord.of(dataclasses.asdict(config), records, data_digest)
        super().__init__(directory, config.checkpoint, now, check_lease)

    def save(self, step: int, state: TrainState) -> None:
        """Starts saving and returns; the state may be donated afterwards."""
        self.save_items(step, _items(state))

    def restore(self, like: TrainState) -> TrainState | None:
        """Returns the newest intact state, described by `like`; None: there is no checkpoint."""
        items = self.restore_items(_items(like))
        if items is None:
            return None
        return TrainState(student=items["student"], teacher=items["teacher"], **items["rest"])


# What a process met in reading; of several the largest counts.
_DAMAGED, _OUT_OF_REACH, _REFUSED = 1, 2, 3
# TensorStore raises a ValueError that tells the system's number, and a file where it knows one.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
_FILE = re.compile(r'local file "([^"]*)"')
_UNFINISHED = ".orbax-checkpoint-tmp"  # ends the name of a checkpoint's folder until it is whole
_STEP_NAME = re.compile("[0-9]+")
_LISTED_SECONDS = 90  # for which a listing may be old; NFS keeps one for 60


class DamagedError(Exception):
    """A checkpoint is not what was saved."""


def step_folders(directory: Path) -> list[Path]:
    """Returns what has a step's number for its name among a run's checkpoints, the newest first.

    Unfinished checkpoints, and those that were set aside, have other names. Whether one is intact,
    and is of the step whose name it has, shows when its record is read.
    """
    with _explained(f"The checkpoints' directory {directory} can't be listed"):
        named = [path for path in directory.iterdir() if _STEP_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (int(path.name), path.name), reverse=True)


def read_record(folder: Path) -> RunRecord:
    """Reads what a checkpoint, `checkpoints/STEP`, says of its run.

    Raises:
      DamagedError: it is not what was saved, or was saved as another step.
      UserError: a process can't read it (`UnreachableError` where that may pass), or another
        version of this program wrote it.
    """
    with _same_for_all(folder):
        content = _record_of(folder)
        if folder.name != str(content["step"]):
            raise DamagedError(
                f"it was saved as step {content['step']}, so the folder was renamed or copied"
            )
    return RunRecord.from_json(content, folder)


def _record_of(folder: Path) -> dict[str, Any]:
    return RunRecord.verified(json.loads((folder / "run" / "metadata").read_text(encoding="utf-8")))


def _confirm(folder: Path, record: RunRecord) -> None:
    """Reads back what tells whether a checkpoint that was just saved can be restored.

    Raises:
      UnreachableError: its record or the index of an item is not there or not what was saved.
    """
    try:
        found = _record_of(folder)
        if found != dataclasses.asdict(record):
            raise ValueError("its record is another one")
        for name in record.digests:
            _read_index(folder / name)
    except (OSError, ValueError) as error:
        raise UnreachableError(
            f"The checkpoint {folder} was saved and can't be read back"
            f" ({_first_line(_cause(error))}): let nothing else write to that folder, and give the"
            " same command again."
        ) from error


def read_checked(folder: Path, record: RunRecord, name: str, like: Tree) -> Tree:
    """Reads the item `name` of the checkpoint that has this record; `like` as in `read_item`.

    Raises:
      DamagedError: it is not what was saved.
      UserError: a process can't read it; `UnreachableError` where that may pass.
    """
    with _same_for_all(folder):
        _read_index(folder / name)
        item = read_item(folder / name, like)
    for path, value in digests(item).items():
        if record.digests[name].get(path) != value:
            raise DamagedError(f"the values of {name}{path} are not those of its saving")
    return item


def _handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(None, ocp.args.PyTreeSave, tree_handler())
    registry.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return registry


def read_item(folder: Path, like: Tree) -> Tree:
    """Reads one item of a checkpoint, as it is: nothing is checked.

    Args:
      folder: of the item: `checkpoints/STEP/student`, `teacher` or `rest`.
      like: shapes, dtypes and shardings of the item, as `jax.ShapeDtypeStruct`.
    """
    wanted = ocp.checkpoint_utils.construct_restore_args(like)
    return tree_handler().restore(folder, args=ocp.args.PyTreeRestore(like, restore_args=wanted))


def _read_index(folder: Path) -> None:
    """Raises what is wrong with an item's index; Orbax asks for each array's place at once.

    Raises:
      ValueError: it is not what was saved, or can't be read.
    """
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    if not tensorstore.KvStore.open(spec).result().list().result():
        raise ValueError(f"the index in {folder} is empty or missing")


def _items(state: TrainState) -> dict[str, Tree]:
    rest = {"step": state.step, "centers": state.centers, "optimizer": state.optimizer}
    return {"student": state.student, "teacher": state.teacher, "rest": rest}


@contextlib.contextmanager
def _same_for_all(folder: Path) -> Iterator[None]:
    """Makes what goes wrong on one process in reading a checkpoint go wrong on all of them.

    Raises:
      DamagedError: a process can't read it.
      UnreachableError: for a reason that may pass.
      UserError: it isn't allowed to.
    """
    fault, kind = "", 0
    try:
        yield
    except Exception as error:  # whatever Orbax makes of damaged files
        if loss := lost_process_error(error):
            raise loss from error
        if isinstance(error, (MemoryError, jax.errors.JaxRuntimeError)):
            raise  # not the files' fault
        cause = _cause(error)
        fault = _first_line(cause)
        if is_transient(cause):
            kind = _OUT_OF_REACH
        elif isinstance(cause, PermissionError):
            kind = _REFUSED
        else:
            kind = _DAMAGED
    worst = global_max(kind)
    fault = fault or "another process can't read its part"
    if worst == _DAMAGED:
        raise DamagedError(fault)
    if worst == _OUT_OF_REACH:
        raise UnreachableError(
            f"The checkpoint {folder} can't be read ({fault}): give the same command again; if it"
            " stays so, rename that folder, and the one before is used."
        )
    if worst == _REFUSED:
        raise UserError(f"The checkpoint {folder} can't be read ({fault}): make it readable.")


@contextlib.contextmanager
def _explained(sentence: str) -> Iterator[None]:
    """Makes one sentence of what the file system refuses, or of a process that is gone."""
    try:
        yield
    except Exception as error:
        if loss := lost_process_error(error):
            raise loss from error
        of_files = isinstance(error, (OSError, ValueError, RuntimeError))
        if not of_files or isinstance(error, jax.errors.JaxRuntimeError):
            raise
        cause = _cause(error)
        lasting = not is_transient(cause, writing=True)
        remedy = f"{'make room or mend it and ' if lasting else ''}give the same command again"
        raise (UserError if lasting else UnreachableError)(
            f"{sentence} ({_first_line(cause)}): {remedy}; the checkpoints that were complete are"
            " still there."
        ) from error


def _cause(error: BaseException) -> BaseException:
    """What an error comes from; of TensorStore's, the system's error that it tells of."""
    while error.__cause__:
        error = error.__cause__
    if found := _SYSTEM_ERROR.search(str(error)):
        number, file = int(found[1]), _FILE.findall(str(error))[-1:]
        return OSError(number, os.strerror(number), *file)
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _unused_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.damaged{n or ''}") for n in range(1000))
    return next(name for name in names if not name.exists())


def like(shapes: TrainState, shardings: TrainState) -> TrainState:
    """The description of a state that `Checkpoints.restore` asks for.

    Args:
      shapes: the state with a shape and dtype at each leaf.
      shardings: the same tree with the leaves' shardings.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
