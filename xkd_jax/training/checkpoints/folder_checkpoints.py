"""Checkpoints in a folder, which Orbax writes under another name and then renames."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import orbax.checkpoint as ocp

from data_pipelines import durable
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.training.checkpoints.literal_paths import take_folders_literally
from xkd_jax.training.checkpoints.monotonic_limits import use_monotonic_clock

_UNFINISHED = ".orbax-checkpoint-tmp"  # suffix of a checkpoint's folder until it is complete

take_folders_literally()
use_monotonic_clock()


class FolderCheckpoints(ocp.CheckpointManager):
    """Orbax's manager, without its detection of preemption, which `preemption` does.

    Both would use JAX's single counter of synchronization points.
    """

    def __init__(
        self,
        directory: Path,
        config: CheckpointConfig,
        handlers: ocp.handlers.CheckpointHandlerRegistry,
        check_lease: Callable[[], None],
    ):
        """Opens the folder and creates it if necessary.

        Args:
          directory: of the checkpoints.
          config: which checkpoints are kept.
          handlers: of the items.
          check_lease: raises on every process if another run holds the folder's lease.

        Raises:
          OSError: the folder can't be created or read.
        """
        self._folder, self._check_lease = directory, check_lease
        super().__init__(
            directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep_last or None,
                keep_period=config.keep_every or None,
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _sync(directory)),
            ),
            handler_registry=handlers,
        )

    def reached_preemption(self, step: int) -> bool:
        """Returns False: `preemption` detects it."""
        return False

    def abandon_interrupted(self) -> None:
        """Does nothing: an interrupted save has no folder with the step's name."""

    def save(self, step: int, args: ocp.args.Composite) -> bool:
        """Starts to save a checkpoint; returns False if one of this or a later step exists.

        Raises:
          FileNotFoundError: the folder is missing.
          OSError: it can't be written.
          UserError: another run holds its lease.
        """
        self._try_to_write()
        self._check_lease()
        return super().save(step, args=args)

    def _try_to_write(self) -> None:
        """Tries to write; Orbax would report an error only after minutes."""
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder is missing")
        os.rmdir(tempfile.mkdtemp(prefix="try-", dir=self._folder))

    def set_aside(self, name: str, reason: str) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again.

        Args:
          name: of its folder.
          reason: not kept.

        Raises:
          OSError: it can't be renamed.
        """
        folder = self._folder / name
        folder.rename(_unused_name(folder))


def _sync(directory: Path) -> None:
    """Syncs a checkpoint to disk, so that it survives a power failure.

    Orbax calls this on the main process when all files are written, before it renames the folder to
    the step's number and removes older ones.
    """
    for path in directory.iterdir():
        if path.name.endswith(_UNFINISHED):
            durable.sync_tree(str(path))


def _unused_name(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.damaged{n or ''}") for n in range(1000))
    return next(name for name in names if not name.exists())
