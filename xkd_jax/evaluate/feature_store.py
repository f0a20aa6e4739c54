"""The folder of one set of features: memory-mapped arrays, a manifest and a lease.

The files are `video.npy` and `audio.npy`, float32 [records, clips, crops, width]; `label.npy`,
int64 [records], or `labels.npy`, uint8 [records, classes]; and `manifest.json`, with the sources of
the features, the number of clips written and the shapes of the arrays. Only the main process of the
evaluation that holds the lease writes. In a bucket the arrays are in parts (`feature_objects`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from data_pipelines import lease
from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from data_pipelines.loader_config import MODALITIES
from xkd_jax.evaluate.eval_clips import TARGETS
from xkd_jax.evaluate.feature_objects import FeatureObjects, reserve
from xkd_jax.parallel.processes import is_main_process, on_main


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Features of some records.

    Attributes:
      features: {modality: float32 [records, clips, crops, width]}, memory-mapped.
      target: labels, int64 [records], or uint8 [records, classes] of a multi-label data set.
      records: indices in the split, int64 [records], ascending.
    """

    features: dict[str, np.ndarray]
    target: np.ndarray
    records: np.ndarray

    def rows_of(self, records: np.ndarray) -> np.ndarray:
        """Returns the rows of the given records in the arrays; all must be among `records`."""
        return np.searchsorted(self.records, records)


class FeatureStore:
    """The folder of one set of features, on a file system that all processes share or in a bucket.

    Attributes:
      directory: the folder or URL.
      rows: number of clips of the set.
      done: number of clips written, the first ones of the set.
    """

    def __init__(self, directory: PurePath, made_from: dict[str, Any], records: int, clips: int):
        """Describes the set, without reading.

        Args:
          directory: folder or URL of this set only.
          made_from: sources of the features, of JSON types.
          records: number of records.
          clips: number of clips of each record.
        """
        self.directory = directory
        self.rows = records * clips
        self.done = 0
        self._leading = (records, clips)
        self._made_from = json.loads(json.dumps(made_from))
        self._arrays: dict[str, np.memmap] = {}
        self._manifest = directory / "manifest.json"
        self._objects: FeatureObjects | None = None
        if isinstance(directory, Path):
            self._local = directory
        else:
            self._objects = FeatureObjects(str(directory))
            self._local = self._objects.folder
        self._lease: lease.Lease | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Reads the manifest and, if the set is incomplete, holds the folder's lease.

        `done` is valid on the main process only.

        Raises:
          UserError: the folder can't be created, is damaged, or another evaluation writes to it.
        """
        with contextlib.ExitStack() as stack:
            on_main(lambda: self._open(stack))
            yield

    def _open(self, stack: contextlib.ExitStack) -> None:
        self.done, _ = self._look()
        if self.done == self.rows:  # complete, and possibly read-only
            return
        try:
            self._local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error(
                error, f"{self.directory} can't be written to ({error.strerror}): give another"
                " folder by --config.features.", writing=True,
            ) from None  # fmt: skip
        busy = f"Another evaluation is extracting the features in {self.directory}"
        remedy = "wait until it has ended, or give another folder by --config.features."
        self._lease = stack.enter_context(lease.held(self.directory, busy, remedy))
        self.done, _ = self._look()  # the earlier holder of the lease may have written more

    def allocate(self, found: Mapping[str, np.ndarray]) -> None:
        """Creates the arrays' files, or opens those of an incomplete set.

        Args:
          found: one batch: {modality: float32 [batch, crops, width], a target: [batch, ...]}.

        Raises:
          UserError: disk space does not suffice, or the files have other shapes.
        """
        wanted = {name: self._array_of(name, values) for name, values in found.items()}
        if self.done:
            for name, (shape, dtype) in wanted.items():
                self._arrays[name] = self._load(name, list(shape), np.dtype(dtype).str, "r+")
            return
        needed = sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in wanted.values())
        try:
            for name, (shape, dtype) in wanted.items():
                self._arrays[name] = open_memmap(self._path(name), "w+", dtype, shape)
                reserve(self._path(name))
        except OSError as error:
            self._arrays.clear()
            for name in wanted:
                self._path(name).unlink(missing_ok=True)
            raise UserError(
                f"{self.directory} can't take {needed:,} bytes of features ({error.strerror};"
                f" {shutil.disk_usage(self.directory).free:,} are free): make room, or give a"
                " folder on another disk by --config.features."
            ) from None

    def _array_of(self, name: str, values: np.ndarray) -> tuple[tuple[int, ...], Any]:
        """Returns shape and dtype of the set's array."""
        if name in MODALITIES:
            return (*self._leading, *values.shape[1:]), np.float32
        return (self._leading[0], *values.shape[1:]), np.int64 if values.ndim == 1 else np.uint8

    def write(self, first: int, found: Mapping[str, np.ndarray]) -> None:
        """Writes the clips of one batch to the arrays.

        Args:
          first: index of the batch's first clip in the set.
          found: {modality: float32 [clips, crops, width], a target: [clips, ...]}.
        """
        count = min(self.rows - first, len(next(iter(found.values()))))
        self.done = max(self.done, first + count)
        if not is_main_process():
            return
        for name, values in found.items():
            array = self._arrays[name]
            if name in MODALITIES:
                array.reshape(self.rows, *values.shape[1:])[first : first + count] = values[:count]
            else:
                array[np.arange(first, first + count) // self._leading[1]] = values[:count]

    def save(self) -> None:
        """Flushes the arrays and writes the manifest.

        Raises:
          UserError: disk space does not suffice.
          LeaseLostError: another evaluation holds the folder's lease.
        """
        if not is_main_process():
            return
        if self._lease is not None:
            self._lease.check()
        for array in self._arrays.values():
            array.flush()
        shapes = {n: {"shape": a.shape, "dtype": a.dtype.str} for n, a in self._arrays.items()}
        content = {"made_from": self._made_from, "clips": self.rows, "clips_done": self.done}
        if self._objects is not None:
            parts = self._parts(self._objects)
            if not parts:
                return
            content |= {"parts": parts, "clips_done": parts[-1][1] * self._leading[1]}
        try:
            with storage.writer(str(self._manifest)) as file:
                file.write((json.dumps(content | {"arrays": shapes}, indent=2) + "\n").encode())
        except OSError as error:
            raise file_error(
                error, f"{self._manifest} can't be written ({error.strerror}): make room, and give"
                " the same command again.", writing=True,
            ) from None  # fmt: skip

    def _parts(self, objects: FeatureObjects) -> list[tuple[int, int]]:
        """Returns the parts in the bucket, with the records since the last save."""
        before = objects.parts[-1][1] if objects.parts else 0
        whole = self.done // self._leading[1]  # records whose clips are all written
        if whole > before:
            objects.add(self._arrays, (before, whole))
        return objects.parts

    def read(self, records: np.ndarray) -> FeatureSet:
        """Returns the complete set, memory-mapped.

        Args:
          records: the set's records, int64 [records].

        Raises:
          UserError: the folder is damaged, incomplete, or not shared with this process.
        """
        done, found = self._look()
        if done != self.rows:
            raise self._damaged("it is not complete, or not shared by all processes of the run")
        target = next(np.array(found.pop(name)) for name in TARGETS if name in found)
        return FeatureSet(dict(found), target, records)

    def _look(self) -> tuple[int, dict[str, np.memmap]]:
        """Returns the number of clips written and the arrays, after checks of both."""
        try:
            content = json.loads(storage.read(str(self._manifest)))
            listed, made_from = content["arrays"], content["made_from"]
            done, rows = content["clips_done"], content["clips"]
            arrays = {name: (list(a["shape"]), str(a["dtype"])) for name, a in listed.items()}
        except (FileNotFoundError, NotADirectoryError):
            return 0, {}
        except OSError as error:
            raise self._unreadable(error) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(f"its manifest.json: {error!r}") from None
        is_of_set = made_from == self._made_from and rows == self.rows
        if not (is_of_set and type(done) is int and 0 < done <= rows and _whole(arrays)):
            raise self._damaged("its manifest.json is that of another set")
        if self._objects is not None:
            try:
                self._objects.fetch(content["parts"], arrays)
            except (ValueError, TypeError, KeyError) as error:
                raise self._damaged(str(error)) from None
        return done, {name: self._load(name, *how, "r") for name, how in arrays.items()}

    def _load(self, name: str, shape: list[int], dtype: str, mode: Any) -> np.memmap:
        path = self._path(name)
        try:
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise self._damaged(f"{path.name}: {error}") from None
        except OSError as error:
            raise self._unreadable(error) from None
        leading = [*self._leading] if name in MODALITIES else [self._leading[0]]
        found = [*array.shape]
        if found != shape or array.dtype.str != dtype or found[: len(leading)] != leading:
            raise self._damaged(f"{path.name} has another shape")
        return array

    def _path(self, name: str) -> Path:
        return self._local / f"{name}.npy"

    def _unreadable(self, error: OSError) -> UserError:
        return file_error(
            error, f"The features in {self.directory} can't be read ({error}): make them readable"
            " and run the same command again."
        )  # fmt: skip

    def _damaged(self, fault: str) -> UserError:
        return UserError(
            f"The features in {self.directory} are damaged ({fault}): delete that folder, and they"
            " are extracted again."
        )


def _whole(arrays: Mapping[str, Any]) -> bool:
    """Whether the arrays are features and one kind of target."""
    targets = set(arrays) & set(TARGETS)
    return len(targets) == 1 and targets < set(arrays) <= {*MODALITIES, *TARGETS}
