"""The files below a folder, found by what official lists call them."""

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
from data_pipelines.format import storage

_Key = TypeVar("_Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Files of the source or rows of its lists that are not used: what, how many, and the first."""

    what: str
    count: int
    example: str


def counted(what: str, examples: list[str]) -> list[Ignored]:
    """Returns how many there are and the first, or nothing where there are none."""
    return [Ignored(what, len(examples), examples[0])] if examples else []


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
        self._lists: set[str] = set()

    def by_stem(self) -> FileIndex:
        """Returns the files of sound and video by their names without suffix."""
        return FileIndex(self.directory, self.files)

    def by_class(self, classes: Iterable[str]) -> ClassIndex:
        """Returns the files of sound and video by class and name."""
        return ClassIndex(self.directory, self.files, classes)

    def media(self) -> list[str]:
        """Returns the files that may hold sound or video."""
        return [path for path in self.files if suffixes.kind(path) is not Kind.OTHER]

    def other_files(self) -> tuple[Ignored, ...]:
        """Returns how many files are neither lists that were asked for nor may be media."""
        found: dict[str, list[str]] = {}
        for path in self.files:
            if suffixes.kind(path) is Kind.OTHER and path not in self._lists:
                found.setdefault(suffixes.group(path), []).append(path)
        return tuple(one for what in sorted(found) for one in counted(what, found[what]))

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
            self._lists.add(path)
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
        self._lists.add(matches[0])
        return storage.join(self.directory, matches[0])


_DRIVE = re.compile(r"[A-Za-z]:/")
_LINE_END = re.compile(r"\r\n|\n|\r")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Place(NamedTuple):
    """Where something is listed: the path of a list and the number of the line, from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


@dataclasses.dataclass(frozen=True)
class Line:
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

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.path, self.line)

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

    def check_path(self, text: str) -> None:
        """Checks that what the row lists is a path below the source.

        Links in the source may lead anywhere, as data sets are often made of links: those are the
        owner's word, and a list is not.

        Raises:
          UserError: it leads out of the source, or is no path of this system.
        """
        if _CONTROL.search(text):
            raise self.fault(f"{text!r} has a control character")
        if "\\" in text or _DRIVE.match(text):
            raise self.fault(f"{text!r} is a path of Windows: write it below the source, with /")
        if text.startswith("/") or ".." in text.split("/"):
            raise self.fault(f"{text!r} leads out of the source, and nothing outside is read")

    def fault(self, text: str) -> UserError:
        """What to raise where the row is not as it should be."""
        return UserError(f"{self.place}: {text}; correct the list or fetch it again.")


def read_lines(path: str) -> list[Line]:
    """Returns the lines of a text file that are not empty, each as the one field `line`.

    Raises:
      UserError: it is not UTF-8.
    """
    lines = enumerate(_lines(path), 1)
    return [Line(path, i, {"line": line.strip()}) for i, line in lines if line.strip()]


def read_table(path: str, columns: Sequence[str], *, header: bool = True) -> Iterator[Line]:
    """Yields the rows of a comma-separated list; lines that begin with # are comments.

    Args:
      path: of the list.
      columns: that it must have; without a header, all that are read, in order.
      header: whether its first row names the columns.

    Raises:
      UserError: a row lacks a column, or the list is empty or not a list.
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
        raise UserError(f"{path} lists nothing: fetch it again.")


def _parsed(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of each row."""
    lines = ["" if line.startswith("#") else line for line in _lines(path)]
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for fields in reader:
            if any(fields):
                yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; fetch the list again.") from None


def _lines(path: str) -> list[str]:
    """The lines of a list, of any system; characters that end lines elsewhere are names' own."""
    try:
        return _LINE_END.split(storage.read(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 from its byte {error.start} on: fetch it again, or save it as"
            " UTF-8."
        ) from None
