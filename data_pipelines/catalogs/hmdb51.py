"""HMDB51, with its three folds."""

from __future__ import annotations

import re

from data_pipelines.catalogs.catalog import Catalog, Item, Source
from data_pipelines.catalogs.source_tree import read_lines
from xkd_jax.errors import UserError

_LIST = re.compile(r"(?P<name>.+)_test_split(?P<fold>[123])\.txt")


def list_items(source: Source) -> Catalog:
    """Lists every video of the `<class>_test_split{k}.txt` lists, in one split `all`.

    A list's line is `file n`: n 1 trains, 2 tests, and 0 is not used in that fold. A video that no
    fold uses is listed too. Classes are in the order of their names.

    Raises:
      UserError: there are no lists, a class lacks a fold's, or a line has another form.
    """
    lists = source.list_tree
    found = lists.lists(_class_and_fold)
    names = tuple(sorted({name for name, _ in found}))
    if not names:
        raise UserError(
            f"{lists.directory} has no <class>_test_split1.txt: point --lists at the folder of the"
            " official lists."
        )
    files = source.tree.by_tail()
    items = []
    for label, name in enumerate(names):
        uses = {fold: _read_uses(found, name, fold) for fold in (1, 2, 3)}
        for file in sorted(set().union(*uses.values())):
            path = f"{name}/{file}"
            items.append(
                Item(
                    path,
                    files.get(path, path),
                    label=label,
                    label_text=name,
                    train_folds=tuple(k for k in uses if uses[k].get(file) == "1"),
                    test_folds=tuple(k for k in uses if uses[k].get(file) == "2"),
                )
            )
    return Catalog({"all": items}, names, folds=3, modalities=("video",), min_seconds=0.0)


def _class_and_fold(name: str) -> tuple[str, int] | None:
    match = _LIST.fullmatch(name)
    return match and (match["name"], int(match["fold"]))


def _read_uses(found: dict[tuple[str, int], str], name: str, fold: int) -> dict[str, str]:
    """Returns what a fold uses each file of a class for."""
    if (name, fold) not in found:
        raise UserError(f"{name}_test_split{fold}.txt is missing: fetch the official lists again.")
    uses: dict[str, str] = {}
    for row in read_lines(found[name, fold]):
        file, _, use = row["line"].rpartition(" ")
        if use not in ("0", "1", "2") or not file:
            raise row.fault(f"{row['line']!r} is not 'file n' with n of 0 to 2")
        if use != uses.setdefault(file.strip(), use):
            raise row.fault(f"{file.strip()} is listed before with another use")
    return uses
