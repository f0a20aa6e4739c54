"""The folder of a run's local checkpoints on each host, and which processes share one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from pathlib import Path, PurePath

import jax

from data_pipelines import durable
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import is_main_process, on_main, run_on_all, write_once
from xkd_jax.training.checkpoints.checkpoint_errors import first_line
from xkd_jax.training.local import shard_files

IDENTITY = "local_checkpoints.json"  # in the run's folder: the name of its local checkpoints
_DISK = "disk"  # file whose content names the disk
_NAME = re.compile(r"([0-9]+)\.[0-9a-f]+")  # STEP.SESSION


class HostDisks:
    """The folders of one run, one on each disk.

    folder: on this host, `DIR/RUN`.
    names: name of the disk of each process; processes that share a disk have the same.
    faults: why a process can't use its disk; empty texts for those that can.
    owner: whether this process is the first one of its disk.
    """

    def __init__(self, directory: str, workdir: PurePath):
        """Creates the folder on each host if necessary; every process must call it.

        Args:
          directory: as in the config.
          workdir: folder or URL of the run.

        Raises:
          UserError: the folder names a variable that a host lacks, or the run's folder can't be
            read or written.
        """
        self.root = run_on_all(lambda: _expanded(directory))
        self.folder = self.root / _identity(workdir)
        self.faults: list[str] = agreement.everyone(self._write_name())
        # Each process reads after all have written: those that share a disk find one name.
        here = jax.process_index()
        own = "" if self.faults[here] else (self.folder / _DISK).read_text()
        self.names: tuple[str, ...] = (*agreement.everyone(own or secrets.token_hex(8)),)
        self.owner = self.names.index(self.names[here]) == here

    def _write_name(self) -> str:
        """Writes the disk's name unless there is one; returns the reason if that fails."""
        try:
            durable.make_folders(str(self.folder))
            path = self.folder / _DISK
            if not path.exists() or not path.read_text():
                with durable.replacing(str(path), f"{path}.{secrets.token_hex(4)}") as file:
                    file.write(secrets.token_hex(8).encode())
        except OSError as error:
            return first_line(error)
        return ""

    def checkpoints(self) -> list[str]:
        """Returns the names of the checkpoints on this disk, complete or not."""
        try:
            found = os.listdir(self.folder)
        except OSError:
            return []
        return [name for name in found if _NAME.fullmatch(name)]

    def remove(self, names: list[str]) -> None:
        """Removes checkpoints on this disk; on the first of the processes that share it."""
        if self.owner:
            for name in names:
                shard_files.remove(self.folder / name)

    def remove_all(self) -> None:
        """Removes the run's folder on this disk; on the first of the processes that share it."""
        if self.owner:
            shard_files.remove(self.folder)


def step_of(name: str) -> int:
    """Returns the step of a checkpoint's name."""
    return int(name.partition(".")[0])


def _expanded(folder: str) -> Path:
    path = os.path.expanduser(os.path.expandvars(folder))
    if "$" in path:
        raise UserError(
            f"local_checkpoints.dir is {folder}, with a variable that is not set on this host: set"
            " it on every host, or give a folder."
        )
    return Path(os.path.realpath(path))


def _identity(workdir: PurePath) -> str:
    """The name of the run's local checkpoints; another one for a new or a copied folder."""
    path = workdir / IDENTITY

    def name_run() -> None:
        if not storage.exists(str(path)):
            write_once(path, {"run": secrets.token_hex(8)})

    on_main(name_run)
    run = run_on_all(lambda: _written_name(path) if is_main_process() else "")
    return str(agreement.everyone(run)[0])


def _written_name(path: PurePath) -> str:
    try:
        run = json.loads(storage.read(str(path)))["run"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} can't be read ({first_line(error)}): remove it, and local checkpoints of"
            " earlier starts are not used."
        ) from error
    where = os.path.realpath(path) if isinstance(path, Path) else str(path)
    return hashlib.blake2b(f"{run} {where}".encode(), digest_size=8).hexdigest()
