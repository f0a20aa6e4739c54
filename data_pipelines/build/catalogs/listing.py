"""Items of a data set, gathered row by row from its official lists."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.build.catalogs.source_tree import Ignored, Line, Place, SourceTree, counted


class _Entry(NamedTuple):
    split: str
    item: Item
    found: str | None
    place: Place


class Listing:
    """The items of each split, each once, with their files.

    A row that repeats another is counted and adds nothing. A file is given to the one item that it
    can mean; where it could mean several, as two stretches of a recording in a file that is named
    by the recording alone, none gets it.
    """

    def __init__(self, splits: Iterable[str] = (), *, shared: bool = False):
        """Starts without items.

        Args:
          splits: those that are there even if they have no items, in order.
          shared: whether several items may be stretches of one file.
        """
        self._splits = list(splits)
        self._shared = shared
        self._entries: dict[str, _Entry] = {}
        self._repeated: list[Place] = []
        self._claims: collections.Counter[str] = collections.Counter()

    def add(self, split: str, item: Item, found: str | None, row: Line) -> None:
        """Adds what a row lists.

        Args:
          split: its split.
          item: what is listed; its `path` is where the file is expected.
          found: path of the file in the source, if there is one.
          row: of the list.

        Raises:
          UserError: the row contradicts one before, or leads out of the source.
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
        """Counts a row that says what one before says."""
        self._repeated.append(row.place)

    def splits(self) -> dict[str, list[Item]]:
        """Returns the items of each split, in the order in which they were added."""
        splits: dict[str, list[Item]] = {split: [] for split in self._splits}
        for entry in self._entries.values():
            item, found = entry.item, entry.found
            if found is not None and (self._shared or self._claims[found] == 1):
                item = dataclasses.replace(item, path=found)
            splits.setdefault(entry.split, []).append(item)
        return splits

    def ignored(self, tree: SourceTree) -> tuple[Ignored, ...]:
        """Returns what of the lists and the source is not used."""
        several = [] if self._shared else [p for p, n in self._claims.items() if n > 1]
        unlisted = [path for path in tree.media() if path not in self._claims]
        return (
            *counted("rows that repeat another", list(map(str, self._repeated))),
            *counted("files that several rows could mean", several),
            *counted("media files that no list names", unlisted),
            *tree.other_files(),
        )


def _difference(before: _Entry, split: str, item: Item) -> str:
    """Names what differs between what two rows say of one item."""
    if before.split != split:
        return f"split ({before.split}, now {split})"
    old = before.item
    if (old.label, old.labels, old.label_text) != (item.label, item.labels, item.label_text):
        return f"label ({old.label_text or 'none'}, now {item.label_text or 'none'})"
    if (old.train_folds, old.test_folds) != (item.train_folds, item.test_folds):
        return f"fold (test folds {old.test_folds}, now {item.test_folds})"
    if (old.start, old.end) != (item.start, item.end):
        return f"stretch ({old.start:g} to {old.end:g} s)"
    return "" if old == item else f"path ({old.path})"


def classes(rows: Iterable[Line], number: str, name: str) -> list[Line]:
    """Returns the rows of a list of classes in the order of their numbers, each class once.

    Args:
      rows: of the list.
      number: the column with a class' number.
      name: the column with its name, or what other lists call it.

    Raises:
      UserError: a number is none, or two classes have the same number or name.
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
    """What each fold of a data set uses each file for, gathered row by row."""

    def __init__(self, listing: Listing):
        """Starts without files; rows that repeat another are counted by `listing`."""
        self._listing = listing
        self._uses: dict[str, dict[int, tuple[str, Line]]] = {}

    def add(self, file: str, fold: int, use: str, row: Line) -> None:
        """Adds what a row says.

        Raises:
          UserError: the row contradicts one before.
        """
        uses = self._uses.setdefault(file, {})
        before, earlier = uses.setdefault(fold, (use, row))
        if before != use:
            raise row.fault(
                f"{file} is listed before with another use ({before}, now {use}), in"
                f" {earlier.place}"
            )
        if earlier is not row:
            self._listing.repeat(row)

    def files(self) -> list[tuple[str, Line]]:
        """Returns the files, sorted, each with the first row that lists it."""
        return [(file, next(iter(uses.values()))[1]) for file, uses in sorted(self._uses.items())]

    def folds(self, file: str, use: str) -> tuple[int, ...]:
        """Returns the folds that use a file so, in order."""
        return tuple(sorted(fold for fold, (is_, _) in self._uses[file].items() if is_ == use))
