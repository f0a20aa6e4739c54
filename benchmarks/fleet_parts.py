"""Measurements of a host's work besides training in a large run: the parts of `benchmarks.fleet`.

Each function measures one part in a process that should do nothing else, as peak memory is that of
the process. Times are seconds of CPU time, which other programs on the machine hardly change.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kinetics_like
from configs import k400
from data_pipelines.buffers import BufferPool
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.ingest import IngestOptions, ingest
from data_pipelines.format import (
    record_source,
    shard_index,
    shard_names,
    split_index,
    tfrecord,
)
from data_pipelines.read.batches import BatchInPlace
from data_pipelines.read.in_order import Drawn, InOrder
from data_pipelines.read.shuffle import Shuffle, blocks
from xkd_jax.config import pretraining
from xkd_jax.config.pretraining import Config

# Number of different shards; the others are links to them, as a file has at most 65,000 links.
_DIFFERENT = 64
_RECORD_BYTES = (300_000, 900_000)  # of synthetic indexes
_NAME, _SPLIT = "synthetic", "train"


def opening(records: int, shards: int, by_split: bool = True) -> dict[str, float]:
    """Lists and opens synthetic shards, as each host does at its start.

    The shards are sparse files, and most are links to a few, so the system has read them before.

    Args:
      records: of all shards; rounded down to a multiple of `shards`.
      shards: number of shards.
      by_split: whether to open them by the index of the split, or by the index of each.

    Returns:
      {"records", "shards", "cpu_seconds", "peak_bytes"}.
    """
    with tempfile.TemporaryDirectory() as folder:
        _synthetic(folder, records // shards, shards)
        before, start = peak_bytes(), time.process_time()
        found = shard_names.find_shards(folder, _SPLIT)
        index = split_index.load(folder, _NAME, _SPLIT, shards) if by_split else None
        opened = len(record_source.TFRecordSource(found, splits=[(shards, index)]))
        seconds = time.process_time() - start
        peak = peak_bytes() - before
    return {"records": opened, "shards": shards, "cpu_seconds": seconds, "peak_bytes": peak}


def _synthetic(folder: str, each: int, shards: int) -> None:
    """Writes shards of `each` records without data, and the index of their split."""
    rng = np.random.default_rng(0)
    paths = split_index.shard_paths(folder, _NAME, _SPLIT, shards)
    made = {}
    for path in paths[:_DIFFERENT]:
        entries = np.zeros(each, shard_index.ENTRY)
        entries["length"] = rng.integers(*_RECORD_BYTES, each)
        entries["crc"] = rng.integers(2**32, size=each)
        size = int(entries["length"].sum()) + tfrecord.FRAMING * each
        Path(path).touch()
        os.truncate(path, size)
        Path(path + shard_index.SUFFIX).write_bytes(shard_index.pack(entries, 0))
        made[path] = size
    for number, path in enumerate(paths[len(made) :]):
        source = paths[number % len(made)]
        os.link(source, path)
        os.link(source + shard_index.SUFFIX, path + shard_index.SUFFIX)
    different = split_index.scan(made)
    index = split_index.SplitIndex(np.resize(different.shards, shards), different.digest)
    Path(split_index.path_of(folder, _NAME, _SPLIT)).write_bytes(split_index.pack(index))


def order(records: int, shards: int, window: int = 0) -> dict[str, float]:
    """Computes the order of an epoch, one part after the other.

    Args:
      records: of an epoch.
      shards: number of shards, which have as many records each.
      window: `data.shuffle_window`.

    Returns:
      {"records", "window", "first_seconds", "cpu_seconds", "peak_bytes"}; the first is until the
      first position is known.
    """
    before = peak_bytes()
    shuffle = Shuffle(range(records), np.arange(shards + 1) * records // shards, 0, window)
    start = time.process_time()
    shuffle(0)
    first = time.process_time() - start
    for position in range(0, records, window or -(-records // blocks(records, window))):
        shuffle(position)
    seconds = time.process_time() - start
    return {
        "records": records,
        "window": window,
        "first_seconds": first,
        "cpu_seconds": seconds,
        "peak_bytes": peak_bytes() - before,
    }


class _NoRecords:
    """Placeholder for records, as only their indices are of interest."""

    def __getitem__(self, record: int, /) -> None:
        return None


def hosts(records: int, batch_size: int, number: int) -> dict[str, float]:
    """Reads an epoch on many hosts, one after the other, each with its own order and pipeline.

    Args:
      records: of an epoch.
      batch_size: rows of the global batch, a multiple of `number`; a host reads an equal part.
      number: of hosts.

    Returns:
      {"hosts", "records", "batch_size", "missing", "repeated", "cpu_seconds"}; `missing` and
      `repeated` count the records of the epoch that no host read, and reads beyond the first.
    """
    start = time.process_time()
    times_read = np.zeros(records, np.int64)
    share = batch_size // number
    for host in range(number):
        rows = range(host * share, (host + 1) * share)
        batches = (
            InOrder(_NoRecords(), Shuffle(range(records), np.array([0, records]), 0))
            .map(_numbers)
            .pipe(BatchInPlace, batch_size, rows, 1, BufferPool())
        )
        for step in range(-(-records // batch_size)):
            batch = batches[step]
            np.add.at(times_read, batch["record"][batch["epoch"] == 0], 1)
    return {
        "hosts": number,
        "records": records,
        "batch_size": batch_size,
        "missing": int((times_read == 0).sum()),
        "repeated": int(np.maximum(times_read - 1, 0).sum()),
        "cpu_seconds": time.process_time() - start,
    }


def _numbers(drawn: Drawn) -> tuple[dict[str, Any], Any]:
    return {"record": np.int64(drawn.index), "epoch": np.int64(drawn.draw)}, lambda pending: None


def checkpoint(size: str, number: int) -> dict[str, Any]:
    """Saves and restores the part of a training state that the first of many hosts has.

    Args:
      size: `model.size` of `configs/k400.py`; the state is divided by `mesh.optimizer=split`.
      number: of hosts. The first host has the most: its part of each matrix, and all arrays that
        are not divided.

    Returns:
      {"size", "hosts", "state_bytes", "host_bytes", "save_cpu_seconds", "restore_cpu_seconds",
      "save_seconds", "restore_seconds"}; the last two are wall-clock time.
    """
    import jax

    from xkd_jax.training.checkpoints import checkpoint as checkpoint_lib

    rng, config = np.random.default_rng(0), sized(size)
    whole, part = state_shapes(config, number)

    def draw(shape: Any) -> Any:
        # Bytes of all values, as moments and weights are hardly compressible.
        content = rng.bytes(int(np.prod(shape.shape)) * shape.dtype.itemsize)
        return jax.device_put(np.frombuffer(content, shape.dtype).reshape(shape.shape))

    arrays = jax.block_until_ready(jax.tree.map(draw, part))
    wanted = checkpoint_lib.like(part, jax.tree.map(lambda x: x.sharding, arrays))
    with tempfile.TemporaryDirectory() as folder:
        used = [_clocks()]
        with checkpoint_lib.Checkpoints(Path(folder, "saved"), config, 1, "synthetic") as saved:
            saved.save(1, arrays)
            saved.wait()
            used.append(_clocks())
            assert saved.restore(wanted) is not None
            used.append(_clocks())
    cpu, wall = np.diff(used, axis=0).T.tolist()
    return {
        "size": size,
        "hosts": number,
        "state_bytes": tree_bytes(whole),
        "host_bytes": tree_bytes(part),
        "save_cpu_seconds": cpu[0],
        "restore_cpu_seconds": cpu[1],
        "save_seconds": wall[0],
        "restore_seconds": wall[1],
    }


def _clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def state(number: int) -> dict[str, float]:
    """Returns the sizes of the state of `configs/k400.py`, without arrays.

    Args:
      number: of hosts that divide it.

    Returns:
      {"hosts", "state_bytes", "host_bytes", "steps_between_saves"}.
    """
    config = sized("base")
    whole, part = state_shapes(config, number)
    return {
        "hosts": number,
        "state_bytes": tree_bytes(whole),
        "host_bytes": tree_bytes(part),
        "steps_between_saves": config.checkpoint.every_steps,
    }


def state_shapes(config: Config, hosts: int) -> tuple[Any, Any]:
    """Returns the shapes of the training state, and of the first host's part of it.

    Args:
      config: of the run.
      hosts: number of hosts among which matrices are divided.

    Returns:
      two PyTrees of `jax.ShapeDtypeStruct`.
    """
    import jax
    from jax.sharding import AbstractMesh

    from xkd_jax.config.length import Length
    from xkd_jax.method import state_shardings
    from xkd_jax.method.schedules import schedules
    from xkd_jax.parallel.axis_rules import MESH_AXES
    from xkd_jax.training.compiled_run import optimizer_of

    plan = schedules(config.optimizer, config.teacher_temperatures, Length(2, 1))
    transformation = optimizer_of(config, plan)
    architecture = config.architecture
    whole = state_shardings.abstract_state(architecture, transformation)
    mesh = AbstractMesh((hosts, 1, 1), MESH_AXES)
    placed = state_shardings.state_shardings(architecture, mesh, transformation, split=True)
    part = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype),
        whole,
        placed,
    )
    return whole, part


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of a PyTree of arrays or of their shapes."""
    import jax

    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def sized(size: str) -> Config:
    """Returns `configs/k400.py` with a size of the model."""
    raw = k400.get_config()
    raw.model.size = size
    return pretraining.resolve(raw)


def building(videos: int) -> dict[str, float]:
    """Makes records of videos of the size of Kinetics', as a worker of a build does.

    Returns:
      {"videos", "cpu_seconds", "record_bytes"}: seconds of all, and mean bytes of a record.
    """
    options = IngestOptions()
    with tempfile.TemporaryDirectory() as folder:
        kinetics_like.make(folder, videos + 1)
        items = [i for of in CATALOGS["folder"](Source(folder)).splits.values() for i in of]
        sizes: list[int] = []
        start = 0.0
        for number, item in enumerate(items):
            if number == 1:  # the first one loads libraries
                sizes, start = [], time.process_time()
            for record in ingest(item, lambda: None, directory=folder, options=options).records:
                sizes.append(len(record))
        seconds = time.process_time() - start
    return {"videos": videos, "cpu_seconds": seconds, "record_bytes": float(np.mean(sizes))}


def peak_bytes() -> int:
    """Returns the largest resident memory of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
