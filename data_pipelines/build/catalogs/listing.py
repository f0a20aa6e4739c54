"""Collects the items of a data set from the lines of its official lists."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.source_tree import Ignored, Line, Place, SourceTree, counted


class _Entry(NamedTuple):
    split: str
    item: Item
    found: str | None
    place: Place


class Listing:
    """The unique items of each split, with their files.

    Repeated lines are counted. A file is assigned to an item only if no other item matches it: two
    segments of a recording may match a file that is named by the recording alone.
    """

    def __init__(self, splits: Iterable[str] = (), *, shared: bool = False):
        """Creates an empty listing.

        Args:
          splits: splits that exist even without items, in order.
          shared: whether several items may be segments of one file.
        """
        self._splits = list(splits)
        self._shared = shared
        self._entries: dict[str, _Entry] = {}
        self._repeated: list[Place] = []
        self._claims: collections.Counter[str] = collections.Counter()

    def add(self, split: str, item: Item, found: str | None, row: Line) -> None:
        """Adds the item of a line.

        Args:
          split: of the item.
          item: the item; its `path` is where the file is expected.
          found: path of the file in the source; None: not found.
          row: the line of the list.

        Raises:
          UserError: the line contradicts an earlier one, or has a path outside the source.
        """
        for text in (item.id, item.path):
            row.check_path(text)
        before = self._entries.get(item.id)
        if before is None:
            self._entries[item.id] = _Entry(split, item, found, row.place)
            if found is not None:
                self._claims[found] += 1
        elif difference := _difference(before, split, item):
            raise row.fault(
                f"{item.id} is listed before with another {difference}, in {before.place}"
            )
        else:
            self.repeat(row)

    def repeat(self, row: Line) -> None:
        """Counts a line that repeats an earlier one."""
        self._repeated.append(row.place)

    def splits(self) -> dict[str, list[Item]]:
        """Returns the items of each split, in the order of the lines."""
        splits: dict[str, list[Item]] = {split: [] for split in self._splits}
        for entry in self._entries.values():
            item, found = entry.item, entry.found
            if found is not None and (self._shared or self._claims[found] == 1):
                item = dataclasses.replace(item, path=found)
            splits.setdefault(entry.split, []).append(item)
        return splits

    def ignored(self, tree: SourceTree) -> tuple[Ignored, ...]:
        """Returns the unused lines of the lists and files of the source."""
        several = [] if self._shared else [p for p, n in self._claims.items() if n > 1]
        unlisted = [path for path in tree.media() if path not in self._claims]
        return (
            *counted("lines that repeat another", list(map(str, self._repeated))),
            *counted("files that match several lines", several),
            *counted("media files in no list", unlisted),
            *tree.other_files(),
        )


def _difference(before: _Entry, split: str, item: Item) -> str:
    """Returns the difference between two lines of one item as text, or ""."""
    if before.split != split:
        return f"split ({before.split}, now {split})"
    old = before.item
    if (old.label, old.labels, old.label_text) != (item.label, item.labels, item.label_text):
        return f"label ({old.label_text or 'none'}, now {item.label_text or 'none'})"
    if (old.train_folds, old.test_folds) != (item.train_folds, item.test_folds):
        return f"fold (test folds {old.test_folds}, now {item.test_folds})"
    if (old.start, old.end) != (item.start, item.end):
        return f"segment ({old.start:g} to {old.end:g} s)"
    return "" if old == item else f"path ({old.path})"


def classes(rows: Iterable[Line], number: str, name: str) -> list[Line]:
    """Returns the unique lines of a list of classes, in the order of the classes' numbers.

    Args:
      rows: lines of the list.
      number: the column with the number of a class.
      name: the column with its name or identifier.

    Raises:
      UserError: a number is invalid, or two classes have the same number or name.
    """
    by_number: dict[int, Line] = {}
    by_name: dict[str, Line] = {}
    for row in rows:
        at = row.whole(number)
        for before in (by_number.setdefault(at, row), by_name.setdefault(row[name], row)):
            if (before.whole(number), before[name]) != (at, row[name]):
                raise row.fault(
                    f"'{at} {row[name]}' is listed before as"
                    f" '{before.whole(number)} {before[name]}', in {before.place}"
                )
    return [by_number[at] for at in sorted(by_number)]


class FoldUses:
    """The use of each video by each of three folds, collected from the lines of lists."""

    def __init__(self) -> None:
        """Creates an empty collection."""
        self._listing = Listing(["all"])
        self._uses: dict[str, dict[int, tuple[str, Line]]] = {}

    def add(self, path: str, fold: int, use: str, row: Line) -> None:
        """Adds the use in a line.

        Args:
          path: class and name of the file, `class/file`.
          fold: number of the fold.
          use: as in the list.
          row: the line.

        Raises:
          UserError: the line contradicts an earlier one.
        """
        uses = self._uses.setdefault(path, {})
        before, earlier = uses.setdefault(fold, (use, row))
        if before != use:
            raise row.fault(
                f"{path} is listed before with another use ({before}, now {use}), in"
                f" {earlier.place}"
            )
        if earlier is not row:
            self._listing.repeat(row)

    def catalog(self, source: Source, names: tuple[str, ...], train: str, test: str) -> Catalog:
        """Returns the catalog of the videos, sorted by path, in one split `all`.

        Args:
          source: the location of the videos.
          names: of the classes, in order.
          train: the use for training.
          test: the use for tests; videos with neither use are listed too.

        Raises:
          UserError: a path is outside the source, or several files match it.
        """
        files = source.tree.by_class(names)
        for path, uses in sorted(self._uses.items()):
            name, _, file = path.partition("/")
            folds = {
                of: tuple(sorted(fold for fold, (use, _) in uses.items() if use == of))
                for of in (train, test)
            }
            item = Item(
                path, path, label=names.index(name), label_text=name,
                train_folds=folds[train], test_folds=folds[test],
            )  # fmt: skip
            self._listing.add("all", item, files.get(name, file), next(iter(uses.values()))[1])
        return Catalog(
            self._listing.splits(), names, folds=3, modalities=("video",), min_seconds=0.0,
            ignored=self._listing.ignored(source.tree),
        )  # fmt: skip
