"""The files below a folder, found by what official lists call them."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from data_pipelines import storage
from xkd_jax.errors import UserError

_Key = TypeVar("_Key", bound=Hashable)


class SourceTree:
    """The files below a folder or URL, as sorted paths with forward slashes; hidden ones left out.

    Raises:
      UserError: there is no such folder, it or one below can't be listed, or it has no files.
      UnreachableError: the store or file system doesn't answer.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self.files = sorted(storage.walk(directory))
        if not self.files:
            raise UserError(f"{directory} has no files: give the folder of the data set.")

    def by_stem(self) -> dict[str, str]:
        """Returns the path of each file by its name without suffix.

        Raises:
          UserError: two files of sound or video have the same name.
        """
        return self.by_key(lambda path: os.path.splitext(path.rsplit("/", 1)[-1])[0])

    def by_tail(self) -> dict[str, str]:
        """Returns the path of each file by the last two parts of its path; raises as `by_stem`."""
        return self.by_key(lambda path: "/".join(path.split("/")[-2:]))

    def by_key(self, key_of: Callable[[str], str | None]) -> dict[str, str]:
        """Returns the path of each file by the key that its path gives (None: isn't wanted).

        Raises:
          UserError: two files of sound or video have the same key.
        """
        found: dict[str, str] = {}
        for path in self.files:
            key = key_of(path)
            if key is None or not is_media(path):
                continue
            if key in found:
                raise UserError(
                    f"{self.directory} has two files for {key}, {found[key]} and {path}: keep one."
                )
            found[key] = path
        return found

    def lists(self, key_of: Callable[[str], _Key | None]) -> dict[_Key, str]:
        """Returns {key: full path} of the lists, given the key of a file's name (None: is none).

        Raises:
          UserError: two have the same key.
        """
        found: dict[_Key, str] = {}
        for path in self.files:
            key, full = key_of(path.rsplit("/", 1)[-1]), storage.join(self.directory, path)
            if key is None:
                continue
            if key in found:
                raise UserError(f"{found[key]} and {full} are lists of the same: keep one.")
            found[key] = full
        return found

    def find(self, name: str) -> str:
        """Returns the full path of the one file of that name.

        Raises:
          UserError: there is none, or there are several.
        """
        matches = [path for path in self.files if path.rsplit("/", 1)[-1] == name]
        if len(matches) != 1:
            count = "no" if not matches else "more than one"
            raise UserError(f"{self.directory} has {count} {name}: point --lists at its folder.")
        return storage.join(self.directory, matches[0])


def is_media(path: str) -> bool:
    """Whether a file may hold sound or video, by its name; shards built beside them don't."""
    name = path.rsplit("/", 1)[-1].lower()
    return not name.endswith(_NOT_MEDIA) and ".tfrecord-" not in name


_NOT_MEDIA = (".csv", ".txt", ".json", ".md", ".zip", ".tar", ".gz", ".rar", ".part")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of an official list.

    Attributes:
      path: of the list.
      line: its number, from 1.
      fields: by column.
    """

    path: str
    line: int
    fields: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields[column]

    def number(self, column: str) -> float:
        """A field as a number.

        Raises:
          UserError: it is none, or not finite.
        """
        try:
            value = float(self[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(f"{column} is {self[column]!r}, which is no number")
        return value

    def whole(self, column: str) -> int:
        """A field as a whole number.

        Raises:
          UserError: it is none.
        """
        value = self.number(column)
        if not value.is_integer():
            raise self.fault(f"{column} is {self[column]!r}, which is no whole number")
        return int(value)

    def fault(self, text: str) -> UserError:
        """What to raise where the row is not as it should be."""
        return UserError(f"{self.path}, line {self.line}: {text}; fetch the list again.")


def read_lines(path: str) -> list[Row]:
    """Returns the lines of a text file that are not empty, each as the one field `line`.

    Raises:
      UserError: it is not UTF-8.
    """
    lines = enumerate(_text(path).splitlines(), 1)
    return [Row(path, i, {"line": line.strip()}) for i, line in lines if line.strip()]


def read_table(
    path: str, columns: Sequence[str], *, header: bool = True, unique: str = ""
) -> Iterator[Row]:
    """Yields the rows of a comma-separated list; lines that begin with # are comments.

    Args:
      path: of the list.
      columns: that it must have; without a header, all that are read, in order.
      header: whether its first row names the columns.
      unique: a column in which no two rows may be the same.

    Raises:
      UserError: a row lacks a column, repeats what should be unique, or the list is empty or not
        a list.
    """
    names, seen, any_row = None if header else columns, set(), False
    for line, fields in _parsed(path):
        if names is None:
            names = fields
            continue
        row = Row(path, line, dict(zip(names, fields, strict=False)))
        if lacking := [c for c in columns if c not in row.fields]:
            raise row.fault(f"it lacks {', '.join(lacking)}")
        if unique:
            if row[unique] in seen:
                raise row.fault(f"{row[unique]} is listed before")
            seen.add(row[unique])
        any_row = True
        yield row
    if not any_row:
        raise UserError(f"{path} lists nothing: fetch it again.")


def _parsed(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of each row."""
    lines = ["" if line.startswith("#") else line for line in _text(path).splitlines()]
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for fields in reader:
            if any(fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; fetch the list again.") from None


def _text(path: str) -> str:
    try:
        return storage.read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 from its byte {error.start} on: fetch it again, or save it as"
            " UTF-8."
        ) from None
