"""The files and official lists below a folder."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from data_pipelines.build.catalogs import suffixes
from data_pipelines.build.catalogs.file_index import ClassIndex, FileIndex
from data_pipelines.build.catalogs.suffixes import Kind
from data_pipelines.errors import UserError
from data_pipelines.format import file_tree, storage

_Key = TypeVar("_Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Unused files of the source or lines of its lists: what they are, their number, the first."""

    what: str
    count: int
    example: str


def counted(what: str, examples: list[str]) -> list[Ignored]:
    """Returns one `Ignored`, or none for an empty list.

    Args:
      what: the kind of unused files or lines, in the plural.
      examples: all of them.
    """
    return [Ignored(what, len(examples), examples[0])] if examples else []


class SourceTree:
    """The files below a folder or URL, as sorted paths with forward slashes, without hidden files.

    Raises:
      UserError: there is no such folder, a folder can't be listed, or there are no files.
      UnreachableError: the storage does not respond.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self.files = sorted(file_tree.walk(directory))
        if not self.files:
            raise UserError(f"{directory} has no files: give the folder of the data set.")
        self._lists: set[str] = set()

    def by_stem(self) -> FileIndex:
        """Returns the media files by their names without suffix."""
        return FileIndex(self.directory, self.files)

    def by_class(self, classes: Iterable[str]) -> ClassIndex:
        """Returns the media files by class and name."""
        return ClassIndex(self.directory, self.files, classes)

    def media(self) -> list[str]:
        """Returns the files that may have sound or video."""
        return [path for path in self.files if suffixes.kind(path) is not Kind.OTHER]

    def other_files(self) -> tuple[Ignored, ...]:
        """Returns the files that are neither used lists nor possible media, by kind."""
        found: dict[str, list[str]] = {}
        for path in self.files:
            if suffixes.kind(path) is Kind.OTHER and path not in self._lists:
                found.setdefault(suffixes.group(path), []).append(path)
        return tuple(one for what in sorted(found) for one in counted(what, found[what]))

    def lists(self, key_of: Callable[[str], _Key | None]) -> dict[_Key, str]:
        """Returns {key: full path} of lists; `key_of` is file name -> key, or None.

        Raises:
          UserError: two lists have the same key.
        """
        found: dict[_Key, str] = {}
        for path in self.files:
            key, full = key_of(path.rsplit("/", 1)[-1]), storage.join(self.directory, path)
            if key is None:
                continue
            if key in found:
                raise UserError(f"{found[key]} and {full} are the same list: remove one.")
            found[key] = full
            self._lists.add(path)
        return found

    def find(self, name: str) -> str:
        """Returns the full path of the file with a name.

        Raises:
          UserError: there is none, or there are several.
        """
        matches = [path for path in self.files if path.rsplit("/", 1)[-1] == name]
        if len(matches) != 1:
            count = "no" if not matches else "more than one"
            raise UserError(
                f"{self.directory} has {count} {name}: give the folder of the official lists with"
                " --lists."
            )
        self._lists.add(matches[0])
        return storage.join(self.directory, matches[0])


_DRIVE = re.compile(r"[A-Za-z]:/")
_LINE_END = re.compile(r"\r\n|\n|\r")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Place(NamedTuple):
    """The path of a list and the number of a line, from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of an official list.

    Attributes:
      path: of the list.
      line: number of the line, from 1.
      fields: {column: value}.
    """

    path: str
    line: int
    fields: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields[column]

    @property
    def place(self) -> Place:
        """The list and the number of the line."""
        return Place(self.path, self.line)

    def number(self, column: str) -> float:
        """Returns a field as a number.

        Raises:
          UserError: it is not a finite number.
        """
        try:
            value = float(self[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(f"{column} is {self[column]!r}, which is not a number")
        return value

    def whole(self, column: str) -> int:
        """Returns a field as an integer.

        Raises:
          UserError: it is not an integer.
        """
        value = self.number(column)
        if not value.is_integer():
            raise self.fault(f"{column} is {self[column]!r}, which is not an integer")
        return int(value)

    def check_path(self, text: str) -> None:
        """Checks that a field is a path inside the source.

        Symbolic links in the source may lead outside, as data sets often consist of links made by
        their owner; lists are not trusted.

        Raises:
          UserError: the path leads outside the source, or is not a path of this system.
        """
        if _CONTROL.search(text):
            raise self.fault(f"{text!r} has a control character")
        if "\\" in text or _DRIVE.match(text):
            raise self.fault(
                f"{text!r} is a path of Windows: write it relative to the source, with /"
            )
        if text.startswith("/") or ".." in text.split("/"):
            raise self.fault(f"{text!r} leads out of the source, which is not permitted")

    def fault(self, text: str) -> UserError:
        """Returns the error for an invalid line."""
        return UserError(f"{self.place}: {text}; correct the list or download it again.")


def read_lines(path: str) -> list[Line]:
    """Returns the non-empty lines of a text file, each with the single field `line`.

    Raises:
      UserError: the file is not UTF-8.
    """
    lines = enumerate(_lines(path), 1)
    return [Line(path, i, {"line": line.strip()}) for i, line in lines if line.strip()]


def read_table(path: str, columns: Sequence[str], *, header: bool = True) -> Iterator[Line]:
    """Yields the lines of a comma-separated list; lines that begin with # are comments.

    Args:
      path: of the list.
      columns: required columns; without a header, all columns in order.
      header: whether the first line has the names of the columns.

    Raises:
      UserError: a line lacks a column, or the list is empty or malformed.
    """
    names, any_row = None if header else columns, False
    for line, fields in _parsed(path):
        if names is None:
            names = fields
            continue
        row = Line(path, line, dict(zip(names, fields, strict=False)))
        if lacking := [c for c in columns if c not in row.fields]:
            raise row.fault(f"it lacks {', '.join(lacking)}")
        any_row = True
        yield row
    if not any_row:
        raise UserError(f"{path} is empty: download it again.")


def _parsed(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of the line, fields)."""
    lines = ["" if line.startswith("#") else line for line in _lines(path)]
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for fields in reader:
            if any(fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: {error}: download the list again."
        ) from None


def _lines(path: str) -> list[str]:
    """Returns the lines of a list with any line ends; other separators may be part of names."""
    try:
        return _LINE_END.split(storage.read(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 from byte {error.start} on: download it again, or save it as"
            " UTF-8."
        ) from None
