"""Checkpoints on each host's own disk, for a restart that loses few steps.

Below `DIR/RUN/STEP.SESSION/`, each process writes a folder of shards (`shard_files`): those that
its devices hold, once for each disk, and copies of those that its peer alone holds. A restart
assembles a checkpoint from all disks, sends each host the shards that it lacks, and compares the
shards' checksums. RUN is derived from a random name in the run's folder, and SESSION is a random
name for each start of the program: shards of two attempts at a step never mix. The files are
removed when the run has ended.
"""

from __future__ import annotations

import concurrent.futures
import secrets
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from data_pipelines import terminal
from xkd_jax.config.pretraining import LocalCheckpointsConfig
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import is_main_process, print_on_main
from xkd_jax.training.checkpoints.checkpoint_errors import first_line
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.local import local_restore, peer_shards, shard_files, shard_placement
from xkd_jax.training.local.host_disks import HostDisks, step_of
from xkd_jax.training.local.shard_files import Shard

_MOST = 8  # processes in a message


class LocalCheckpoints:
    """Saves a run's state on the disks of its hosts, and restores it; all processes take part."""

    def __init__(self, config: LocalCheckpointsConfig, workdir: PurePath):
        """Opens the folder on each host and creates it if necessary.

        If a host's disk can't be used, a warning names it, and nothing is saved until the next
        start.

        Args:
          config: folder, period and number of checkpoints.
          workdir: folder or URL of the run.

        Raises:
          UserError: the folder names a variable that a host lacks, or the run's folder can't be
            read or written.
        """
        self._keep = config.keep
        self._disks = HostDisks(config.dir, workdir)
        self._session: str = agreement.everyone(secrets.token_hex(4))[0]
        self._complete: list[str] = []  # names of checkpoints that are on all disks, oldest first
        self._pending: tuple[str, concurrent.futures.Future[None]] | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "local checkpoints")
        self._warned = False
        self._usable = not self._warn(self._disks.faults)
        if jax.process_count() > 1 and len(set(self._disks.names)) == 1:
            print_on_main(
                f"note      all processes share the folder {self._disks.root}: local checkpoints"
                " have no copy"
            )

    def save(self, step: int, items: dict[str, Tree], record: RunRecord) -> None:
        """Starts to save a state and returns; the arrays may be donated afterwards.

        A save that fails on a host is dropped on all hosts, with one warning.

        Args:
          step: number of updates made.
          items: {name: PyTree of arrays with 4-byte dtypes}.
          record: of the run at this step.
        """
        if not self._usable:
            return
        self.finish()
        name = f"{step}.{self._session}"
        shards = self._to_write(_flat(items))
        folder = self._disks.folder / name / str(jax.process_index())
        self._pending = name, self._thread.submit(shard_files.write, folder, record, shards)

    def finish(self) -> None:
        """Waits until the save is on all disks, and removes older checkpoints."""
        if self._pending is None:
            return
        (name, written), self._pending = self._pending, None
        error = written.exception()
        if error is not None and not isinstance(error, OSError):
            raise error
        if self._warn(agreement.everyone(first_line(error) if error else "")):
            self._disks.remove([name])
            return
        self._complete = [*self._complete, name][-self._keep :]
        found = self._disks.checkpoints()
        self._disks.remove([old for old in found if old not in self._complete])

    def remove(self) -> None:
        """Removes the run's local checkpoints, when it has ended."""
        self.finish()
        self._disks.remove_all()

    def exist(self) -> bool:
        """Whether any host's disk has a checkpoint; every process must call it."""
        return any(agreement.everyone(self._disks.checkpoints()))

    def restore(
        self, like: dict[str, Tree], after: int, check: Callable[[RunRecord], None]
    ) -> tuple[RunRecord, dict[str, Tree]] | None:
        """Reads the newest checkpoint that is complete on the disks of all hosts together.

        Args:
          like: shapes, dtypes and shardings of the items, as `jax.ShapeDtypeStruct`.
          after: only a checkpoint of a later step is read.
          check: raises an error if the run can't resume from a record.

        Returns:
          The record and {name: PyTree of arrays}, or None without such a checkpoint.
        """
        self.finish()
        listed = agreement.everyone(self._disks.checkpoints())
        names = {name for names in listed for name in names if step_of(name) > after}
        arrays = _flat(like)
        for name in sorted(names, key=lambda name: (step_of(name), name), reverse=True):
            if (found := local_restore.find(self._disks, name, arrays)) is None:
                continue
            check(found.record)
            if (values := local_restore.read(self._disks, found, arrays)) is None:
                continue
            self._complete = [name]
            return found.record, jax.tree.unflatten(jax.tree.structure(like), values)
        return None

    def _warn(self, faults: list[str]) -> bool:
        """Whether a process has a fault; the first time it is printed."""
        where = [process for process, fault in enumerate(faults) if fault]
        if where and not self._warned:
            self._warned = True
            hosts = agreement.hosts()
            named = ", ".join(f"{i} ({hosts[i]})" for i in where[:_MOST])
            more = f" and {len(where) - _MOST} more" if len(where) > _MOST else ""
            if is_main_process():
                terminal.print_error(
                    f"Local checkpoints can't be written on process {named}{more}"
                    f" ({faults[where[0]]}): the run continues with those in its folder; make room"
                    " or repair the disk."
                )
        return bool(where)

    def _to_write(self, arrays: dict[str, Any]) -> list[tuple[Shard, np.ndarray]]:
        """Copies the shards that this process writes to the host's memory."""
        result: list[tuple[Shard, jax.Array | np.ndarray]] = []
        peers = shard_placement.peers(self._disks.names)
        for name, array in arrays.items():
            writes = shard_placement.writes(
                array.sharding, array.shape, self._disks.names, jax.process_index()
            )
            parts = {
                shard_placement.bounds_of(shard.index, array.shape): shard.data
                for shard in array.addressable_shards
            }
            for bounds in writes.own:
                parts[bounds].copy_to_host_async()
                result.append((Shard(name, bounds), parts[bounds]))
            if writes.moved:
                moved = dict(peer_shards.shards_for_peers(array, peers))
                # Copied now, so that devices hold only one of these arrays at a time.
                result += [(Shard(name, b), _copy(moved[b])[0]) for b in writes.copies]
        return [(shard, _copy(part)) for shard, part in result]


def _flat(items: dict[str, Tree]) -> dict[str, Any]:
    """{item and path: leaf}, in the order of the leaves."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(items)}


def _copy(part: jax.Array | np.ndarray) -> np.ndarray:
    """The values in the host's memory, which stay valid when the array is donated."""
    if isinstance(part, np.ndarray):
        return part
    on_cpu = next(iter(part.devices())).platform == "cpu"  # where NumPy shares the donated buffer
    return np.array(part) if on_cpu else np.asarray(part)
