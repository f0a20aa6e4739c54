"""Finds the files of a source by their names in official lists."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

from data_pipelines.build.catalogs import suffixes
from data_pipelines.build.catalogs.suffixes import Kind
from data_pipelines.errors import UserError


class FileIndex:
    """Paths of media files by a key, usually the name without suffix.

    Other files beside a video (thumbnails, subtitles, texts) have no key. A file with an unknown
    suffix is used if no file with the same key has a suffix of sound or video.
    """

    def __init__(
        self,
        directory: str,
        files: Iterable[str],
        key_of: Callable[[str], str | None] = suffixes.stem,
    ):
        """Indexes the files by their keys.

        Args:
          directory: of the files, for messages.
          files: paths of the files.
          key_of: path -> key, or None.
        """
        self._directory = directory
        self._found: dict[str, dict[Kind, list[str]]] = {}
        for path in files:
            kind = suffixes.kind(path)
            key = key_of(path) if kind is not Kind.OTHER else None
            if key is not None:
                self._found.setdefault(key, {}).setdefault(kind, []).append(path)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def paths(self) -> dict[str, str]:
        """Returns {key: path}; raises as `get`."""
        return {key: path for key in sorted(self._found) if (path := self.get(key)) is not None}

    def get(self, key: str, exact: Callable[[str], bool] | None = None) -> str | None:
        """Returns the path of the file with a key, or None.

        Args:
          key: of the file.
          exact: condition that selects one of several files.

        Raises:
          UserError: several files have the key.
        """
        kinds = self._found.get(key, {})
        paths = kinds.get(Kind.MEDIA) or kinds.get(Kind.UNKNOWN) or []
        if len(paths) > 1 and exact:
            paths = list(filter(exact, paths)) or paths
        if len(paths) > 1:
            raise UserError(
                f"{self._directory} has two files for {key}, {paths[0]} and {paths[1]}: remove one."
            )
        return paths[0] if paths else None


class ClassIndex:
    """Paths of videos by class and name, with any suffix and letter case.

    A file in the folder of its class is preferred. A file elsewhere is found by its name alone,
    unless its folder is that of another class.
    """

    def __init__(self, directory: str, files: list[str], classes: Iterable[str]):
        folders = set(map(_folded, classes))

        def alone(path: str) -> str | None:
            return None if _folder(path) in folders else _folded(suffixes.stem(path))

        self._by_class = FileIndex(
            directory, files, lambda path: f"{_folder(path)}/{_folded(suffixes.stem(path))}"
        )
        self._by_name = FileIndex(directory, files, alone)

    def get(self, name: str, file: str) -> str | None:
        """Returns the path of a file of a class, or None.

        Args:
          name: of the class.
          file: name of the file.

        Raises:
          UserError: several files match.
        """
        stem = suffixes.stem(file)
        key = _folded(stem)

        def exact(path: str) -> bool:
            return suffixes.stem(path) == stem

        return self._by_class.get(f"{_folded(name)}/{key}", exact) or self._by_name.get(key, exact)


def _folder(path: str) -> str:
    parts = path.split("/")
    return _folded(parts[-2]) if len(parts) > 1 else ""


def _folded(text: str) -> str:
    """Returns a name for comparison: casefolded, and normalized, as macOS decomposes accents."""
    return unicodedata.normalize("NFC", text).casefold()
