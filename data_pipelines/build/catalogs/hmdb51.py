"""The catalog of HMDB51, with its three folds."""

from __future__ import annotations

import re

from data_pipelines.build.catalogs.catalog import Catalog, Source
from data_pipelines.build.catalogs.listing import FoldUses
from data_pipelines.build.catalogs.source_tree import read_lines
from data_pipelines.errors import UserError

_LIST = re.compile(r"(?P<name>.+)_test_split(?P<fold>[123])\.txt")


def list_items(source: Source) -> Catalog:
    """Lists every video of the `<class>_test_split{k}.txt` lists, in one split `all`.

    A line is `file n`: n is 1 for training, 2 for test, and 0 for videos that the fold does not
    use. Videos without a use are listed too. Classes are in the order of their names. Videos may
    have any suffix, and be in any folder except that of another class.

    Raises:
      UserError: there are no lists, a class lacks the list of a fold, or a line is malformed or
        contradicts another.
    """
    lists = source.list_tree
    found = lists.lists(_class_and_fold)
    names = tuple(sorted({name for name, _ in found}))
    if not names:
        raise UserError(
            f"{lists.directory} has no <class>_test_split1.txt: give the folder of the official"
            " lists with --lists."
        )
    uses = FoldUses()
    for name in names:
        _read_uses(uses, found, name)
    return uses.catalog(source, names, train="1", test="2")


def _class_and_fold(name: str) -> tuple[str, int] | None:
    match = _LIST.fullmatch(name)
    return match and (match["name"], int(match["fold"]))


def _read_uses(uses: FoldUses, found: dict[tuple[str, int], str], name: str) -> None:
    """Adds the uses of the files of a class by each fold."""
    for fold in (1, 2, 3):
        if (name, fold) not in found:
            raise UserError(
                f"{name}_test_split{fold}.txt is missing: download the official lists again."
            )
        for row in read_lines(found[name, fold]):
            file, _, use = row["line"].rpartition(" ")
            if use not in ("0", "1", "2") or not file:
                raise row.fault(f"{row['line']!r} is not 'file n' with n of 0 to 2")
            row.check_path(file)
            uses.add(f"{name}/{file.strip()}", fold, use, row)
