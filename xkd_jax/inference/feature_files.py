"""Features of many files on disk, in parts that are written atomically and skipped on resuming.

The sorted list of files is divided into parts. After the features of a part, `part-NNNNN.json` is
written, with the number of rows of each file or the reason why it is left out; parts with this file
are not computed again. `settings.json` has the settings of all parts.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from data_pipelines import json_file
from data_pipelines.build.catalogs.source_tree import Ignored, SourceTree
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.inference.embedding import Features
from xkd_jax.training.checkpoints.versions import versions

Format = Literal["parquet", "npz"]
FILES_A_PART = 64
SETTINGS, LEFT_OUT = "settings.json", "left_out.csv"
_METADATA = b"xkd_jax"


@dataclasses.dataclass(frozen=True)
class FeatureFolder:
    """A folder of features.

    Attributes:
      path: path or URL of the folder.
      files: all source files, sorted.
      settings: the model's digest and the options, the same for all parts.
      format: format of the parts.
      loaded: arguments of `xkd_jax.load` for the model; not compared.
    """

    path: str
    files: Sequence[str]
    settings: dict[str, Any]
    format: Format
    loaded: dict[str, Any]

    def prepare(self) -> None:
        """Creates the folder, or checks that an existing one has the same settings.

        Raises:
          UserError: it has other settings.
        """
        storage.make_folder(self.path)
        path = storage.join(self.path, SETTINGS)
        settings = json.loads(json.dumps({**self.settings, "files": len(self.files)}))
        if storage.exists(path):
            before = self._read(path)
            other = [k for k in settings if before.get(k) != settings[k]] if before else ["it"]
            if other:
                raise UserError(
                    f"{self.path} has features made with another {other[0]}: give another folder by"
                    " --output, or the same settings and source as before."
                )
            return
        self._write(path, {**settings, "loaded": self.loaded, "versions": versions()})

    def parts(self) -> int:
        """Number of parts."""
        return -(-len(self.files) // FILES_A_PART)

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Returns the numbers of the parts that do not exist yet."""
        return [n for n in numbers if not storage.exists(self._marker(n))]

    def files_of(self, number: int) -> Sequence[str]:
        """The files of a part."""
        return self.files[number * FILES_A_PART : (number + 1) * FILES_A_PART]

    def write(
        self, number: int, features: dict[str, Features], left_out: dict[str, tuple[str, str]]
    ) -> None:
        """Writes a part.

        Args:
          number: of the part.
          features: by file.
          left_out: reason and detail, by file.
        """
        if self.format == "parquet":
            with storage.writer(storage.join(self.path, f"part-{number:05}.parquet")) as file:
                write_parquet(file, features, self.settings)
        else:
            for path, found in features.items():
                name = f"{self.files.index(path):08}-{_short(path)}.npz"
                with storage.writer(storage.join(self.path, name)) as file:
                    write_npz(file, path, found, self.settings)
        rows = {path: len(found.start) for path, found in features.items()}
        whole = (f for f in features.values() if f.video is not None and f.audio is not None)
        both = sum(len(found.start) for found in whole)
        content = {"rows": rows, "rows_of_both": both, "left_out": left_out}
        self._write(self._marker(number), content)

    def summary(self) -> dict[str, Any]:
        """Returns files, rows, rows of both modalities and left out files of all complete parts.

        Also writes `left_out.csv`.

        Raises:
          UserError: a file of a part can't be read.
        """
        rows = files = both = 0
        lost: dict[str, Sequence[str]] = {}
        done = [n for n in range(self.parts()) if storage.exists(self._marker(n))]
        for number in done:
            part = self._read(self._marker(number))
            rows, files = rows + sum(part["rows"].values()), files + len(part["rows"])
            both += part["rows_of_both"]
            lost |= part["left_out"]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "reason", "detail"])
        writer.writerows([path, *why] for path, why in sorted(lost.items()))
        with storage.writer(storage.join(self.path, LEFT_OUT)) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        return {
            "files": files, "rows": rows, "rows_of_both": both, "left_out": lost,
            "complete": len(done) == self.parts(),
        }  # fmt: skip

    def _marker(self, number: int) -> str:
        return storage.join(self.path, f"part-{number:05}.json")

    def _read(self, path: str) -> dict[str, Any]:
        try:
            return json_file.read(path)
        except (json_file.ContentError, FileNotFoundError) as error:
            raise UserError(f"{path} can't be used ({error}): delete it.") from None

    def _write(self, path: str, content: dict[str, Any]) -> None:
        with storage.writer(path) as file:
            file.write(json.dumps(content, indent=1, sort_keys=True).encode())


def write_parquet(file: Any, features: dict[str, Features], settings: dict[str, Any]) -> None:
    """Writes one row per window: path, start, end, and lists of float32, null without the modality.

    Args:
      file: open for writing.
      features: by file, pooled.
      settings: become JSON in the file's metadata, under the key `xkd_jax`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [path for path, found in features.items() for _ in found.start]
    columns: dict[str, Any] = {"path": pa.array(paths, pa.string())}
    for name in ("start", "end"):
        values = [getattr(found, name) for found in features.values()]
        columns[name] = pa.array(np.concatenate([np.zeros(0), *values]), pa.float64())
    for modality, width in settings["widths"].items():
        columns[modality] = _lists(modality, width, features)
    table = pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(settings)})
    pq.write_table(table, file, compression="zstd")


def _lists(modality: str, width: int, features: dict[str, Features]) -> Any:
    import pyarrow as pa

    parts = []
    for found in features.values():
        values, rows = getattr(found, modality), len(found.start)
        if values is None:
            parts.append(pa.nulls(rows, pa.list_(pa.float32(), width)))
        else:
            flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
            parts.append(pa.FixedSizeListArray.from_arrays(flat, width))
    return pa.chunked_array(parts, pa.list_(pa.float32(), width))


def write_npz(file: Any, path: str, features: Features, settings: dict[str, Any]) -> None:
    """Writes the arrays of one file (those that are not None) with its path and the settings."""
    arrays = {name: value for name, value in features._asdict().items() if value is not None}
    text = np.frombuffer(json.dumps({**settings, "path": path}).encode(), np.uint8)
    np.savez(file, settings=text, **arrays)


def listed(source: str) -> tuple[list[str], tuple[Ignored, ...]]:
    """Returns the files of a source, sorted, and those of a folder that are not used, by kind.

    Args:
      source: path or URL of a folder, of a file, or of a list of files (.txt), which has one path
        or URL a line, relative ones below its own folder.

    Raises:
      UserError: there are none, or the source can't be read.
    """
    ignored: tuple[Ignored, ...] = ()
    if not storage.exists(source):
        tree = SourceTree(source)
        found, ignored = [storage.join(source, path) for path in tree.media()], tree.other_files()
    else:
        found = list(_lines(source)) if source.endswith(".txt") else [source]
    if not found:
        raise UserError(f"{source} has no files of sound or video: give another --source.")
    return sorted(set(found)), ignored


def _lines(source: str) -> Iterator[str]:
    folder = source.rpartition("/")[0] or "."
    try:
        text = storage.read(source).decode()
    except UnicodeDecodeError:
        raise UserError(f"{source} is not UTF-8: write the list in that encoding.") from None
    for line in text.splitlines():
        if line.strip():
            path = line.strip()
            absolute = path.startswith("/") or storage.is_remote(path)
            yield path if absolute else f"{folder}/{path}"


def _short(path: str) -> str:
    return path.rpartition("/")[2][-100:]


def read_settings(path: str) -> dict[str, Any]:
    """Returns the settings of a folder of features.

    Args:
      path: the folder.

    Raises:
      UserError: it has none.
    """
    try:
        content = json_file.read(storage.join(path, SETTINGS))
    except (json_file.ContentError, FileNotFoundError) as error:
        raise UserError(
            f"{path} has no {SETTINGS} of features ({error}): give a folder that"
            " python -m xkd_jax.embed made."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} has a {SETTINGS} that is no JSON object: make the features again.")
    return content


def read_rows(path: str) -> dict[str, Any]:
    """Returns the rows of all parquet files of a folder, as columns.

    Returns:
      {"path": list of str, "start" and "end": float64 [rows], and for each modality float32
      [rows, width], NaN where a file has no such stream}.

    Raises:
      UserError: there are no parquet files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted(name for name in storage.sizes(path) if name.endswith(".parquet"))
    if not names:
        raise UserError(f"{path} has no parquet files: make the features with --format=parquet.")
    tables = [pq.read_table(io.BytesIO(storage.read(storage.join(path, n)))) for n in names]
    table = pa.concat_tables(tables)
    found: dict[str, Any] = {"path": table["path"].to_pylist()}
    for name in ("start", "end"):
        found[name] = table[name].to_numpy()
    for name in table.column_names[3:]:
        column = table[name].combine_chunks()
        width = column.type.list_size
        rows = np.full((len(column), width), np.nan, np.float32)
        held = column.is_valid().to_numpy(zero_copy_only=False)
        rows[held] = column.drop_null().flatten().to_numpy().reshape(-1, width)
        found[name] = rows
    return found
