"""The files below a folder, found by what official lists call them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence

from data_pipelines import storage
from xkd_jax.errors import UserError


class SourceTree:
    """The files below a folder or URL, as sorted paths with forward slashes; hidden ones left out.

    Raises:
      UserError: there is no such folder, or it has no files.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self.files = sorted(_walk(directory))
        if not self.files:
            raise UserError(f"{directory} has no files: give the folder of the data set.")

    def by_stem(self) -> dict[str, str]:
        """Returns the path of each file by its name without suffix.

        Raises:
          UserError: two files of sound or video have the same name.
        """
        return self._by_key(lambda path: os.path.splitext(path.rsplit("/", 1)[-1])[0])

    def by_tail(self) -> dict[str, str]:
        """Returns the path of each file by the last two parts of its path."""
        return self._by_key(lambda path: "/".join(path.split("/")[-2:]))

    def _by_key(self, key_of) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.files:
            if path.lower().endswith(_NOT_MEDIA):
                continue
            key = key_of(path)
            if key in found:
                raise UserError(
                    f"{self.directory} has two files for {key}, {found[key]} and {path}: keep one."
                )
            found[key] = path
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


_NOT_MEDIA = (".csv", ".txt", ".json", ".md", ".zip", ".tar", ".gz", ".rar", ".part")


def _walk(directory: str) -> Iterator[str]:
    if storage.is_remote(directory):
        filesystem = storage.filesystem(directory)
        root = filesystem._strip_protocol(directory).rstrip("/") + "/"
        for path in filesystem.find(directory):
            yield path.removeprefix(root)
        return
    if not os.path.isdir(directory):
        raise UserError(f"{directory} is not a folder: check the path.")
    seen = set()
    for folder, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), directory).replace(os.sep, "/")


def read_lines(path: str) -> list[str]:
    """Returns the lines of a text file that are not empty."""
    text = storage.read(path).decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns the rows of a comma-separated list with a header.

    Raises:
      UserError: a column is missing in the header or in a row.
    """
    rows = list(csv.DictReader(read_lines(path), skipinitialspace=True))
    for number, row in enumerate(rows, 2):
        lacking = [c for c in columns if row.get(c) is None]
        if lacking:
            raise UserError(f"{path} lacks {', '.join(lacking)} in line {number}: fetch it again.")
    if not rows:
        raise UserError(f"{path} lists nothing: fetch it again.")
    return rows
