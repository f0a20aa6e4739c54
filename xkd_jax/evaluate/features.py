"""Features of a benchmark's clips: extracted over the mesh, kept in memory-mapped files, reused.

A folder holds one set: `video.npy` and `audio.npy`, float32 [records, clips, crops, width];
`label.npy` int64 [records] or `labels.npy` uint8 [records, classes]; and `manifest.json`, which
says what the features were made from and how many clips are done. The folder's name is a digest of
what they were made from, so other settings never meet them, and an extraction that was killed goes
on at its last full batch.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from numpy.lib.format import open_memmap

from data_pipelines import storage
from data_pipelines.dataset import Dataset
from xkd_jax.config import MODALITIES, Config
from xkd_jax.evaluate.clips import TARGETS, Use, clip_batches
from xkd_jax.evaluate.config import EvalConfig
from xkd_jax.evaluate.encoding import encoder
from xkd_jax.evaluate.pretrained import Pretrained
from xkd_jax.processes import announce, is_main_process
from xkd_jax.progress import duration

_FORMAT = 1
_SAVE_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of some records.

    Attributes:
      features: {modality: float32 [records, clips, crops, width]}, memory-mapped.
      target: int64 [records], or uint8 [records, classes] of a multi-label data set.
      records: their indices in the split, int64 [records], ascending.
    """

    features: dict[str, np.ndarray]
    target: np.ndarray
    records: np.ndarray

    def rows_of(self, records: np.ndarray) -> np.ndarray:
        """Where the given records, which must be among `records`, are in the arrays."""
        return np.searchsorted(self.records, records)


@dataclasses.dataclass(frozen=True)
class Extraction:
    """What every set of an evaluation shares: the network, its views and the devices."""

    config: EvalConfig
    pretrained: Pretrained
    views: Config
    mesh: Mesh
    encode: Any
    directory: Path

    @classmethod
    def prepare(
        cls, config: EvalConfig, pretrained: Pretrained, views: Config, mesh: Mesh, directory: Path
    ) -> Extraction:
        """Builds the jitted encoder; `directory` is where the sets are kept."""
        encode = encoder(config, pretrained.config, views, mesh)
        return cls(config, pretrained, views, mesh, encode, directory)

    def extract(self, dataset: Dataset, split: str, records: np.ndarray, use: Use) -> FeatureSet:
        """Returns the features of the records' clips, from the files where they are complete.

        Args:
          dataset: the split.
          split: its name.
          records: indices in it, int64 [records], ascending.
          use: whether the clips are random and augmented, or spread evenly and plain.
        """
        made_from = self._made_from(dataset, split, records, use)
        digest = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=8)
        clips = getattr(self.config.clips, use)
        store = _Store(
            self.directory / f"{split}-{use}-{digest.hexdigest()}", made_from, len(records), clips
        )
        done = int(multihost_utils.broadcast_one_to_all(np.int64(store.done)))
        if done < store.rows:
            start = done // self.config.batch_size
            batches = clip_batches(self.config, self.views, self.mesh, dataset, records, use, start)
            self._run(store, batches, start, use)
        multihost_utils.sync_global_devices("features")
        return store.read(records)

    def _made_from(
        self, dataset: Dataset, split: str, records: np.ndarray, use: Use
    ) -> dict[str, Any]:
        config, pretrained = self.config, self.pretrained
        sizes = storage.sizes(config.data.dir)
        names = sorted({path.rsplit("/", 1)[-1] for path in dataset.source.paths})
        made_from = {
            "format": _FORMAT,
            "step": pretrained.step,
            "checkpoint": pretrained.crc32,
            "network": config.network,
            "output": config.output,
            "modalities": config.modalities,
            "shards": {name: sizes[name] for name in names},
            "data": os.path.abspath(config.data.dir),
            "split": split,
            "records": hashlib.blake2b(records.astype("<i8").tobytes()).hexdigest(),
            "clips": getattr(config.clips, use),
            "size": self.views.video.size,
        }
        if use == "train":
            augment = [dataclasses.asdict(a) for a in (config.clips.video, config.clips.audio)]
            return made_from | {"seed": config.seed, "augment": augment}
        return made_from | {"crops": config.clips.crops}

    def _run(self, store: _Store, batches: Iterator[Any], start: int, use: Use) -> None:
        """Encodes batch after batch; one is on the devices while the one before is written."""
        size, since, told = self.config.batch_size, time.perf_counter(), 0.0
        running: collections.deque[tuple[int, Any]] = collections.deque()

        def write_oldest() -> None:
            nonlocal told
            first, found = running.popleft()
            store.write(first, jax.tree.map(np.asarray, found))
            now = time.perf_counter() - since
            if now - told > _SAVE_SECONDS or store.done == store.rows:
                told = now
                store.save()
                rate = (store.done - start * size) / now
                announce(
                    f"features  {use} clip {store.done}/{store.rows}  {rate:.4g} clips/s"
                    f"  left {duration((store.rows - store.done) / rate)}"
                )

        for step, batch in enumerate(batches, start):
            running.append((step * size, self.encode(self.pretrained.parameters, batch)))
            if len(running) > 1:
                write_oldest()
        while running:
            write_oldest()


class _Store:
    """The folder of one set. Only the main process writes; the folder must be seen by all."""

    def __init__(self, directory: Path, made_from: dict[str, Any], records: int, clips: int):
        self.directory = directory
        self.rows = records * clips
        self._shape = (records, clips)
        self._made_from = made_from
        self._arrays: dict[str, np.memmap] = {}
        self._manifest = directory / "manifest.json"
        self.done = 0
        if self._manifest.exists():
            self.done = json.loads(self._manifest.read_text())["clips_done"]

    def write(self, first: int, found: dict[str, np.ndarray]) -> None:
        """Takes the clips of one batch, the first of which is the set's clip `first`."""
        count = min(self.rows - first, len(next(iter(found.values()))))
        self.done = max(self.done, first + count)
        if not is_main_process():
            return
        for name, values in found.items():
            if name in MODALITIES:
                array = self._array(name, (*self._shape, *values.shape[1:]), np.float32)
                array.reshape(self.rows, *values.shape[1:])[first : first + count] = values[:count]
            else:
                dtype = np.int64 if values.ndim == 1 else np.uint8
                array = self._array(name, (self._shape[0], *values.shape[1:]), dtype)
                array[np.arange(first, first + count) // self._shape[1]] = values[:count]

    def save(self) -> None:
        """Makes what has been written survive a kill."""
        if not is_main_process():
            return
        for array in self._arrays.values():
            array.flush()
        content = {"made_from": self._made_from, "clips": self.rows, "clips_done": self.done}
        temporary = self._manifest.with_suffix(".part")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(self._manifest)

    def read(self, records: np.ndarray) -> FeatureSet:
        """The complete set, memory-mapped."""
        found = {path.stem: np.load(path, mmap_mode="r") for path in self.directory.glob("*.npy")}
        target = next(np.array(found.pop(name)) for name in TARGETS if name in found)
        return FeatureSet(found, target, records)

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
        if name not in self._arrays:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"{name}.npy"
            kept = self._manifest.exists()
            self._arrays[name] = (
                open_memmap(path, "r+") if kept else open_memmap(path, "w+", dtype, shape)
            )
        return self._arrays[name]
