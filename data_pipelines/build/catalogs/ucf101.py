"""The catalog of UCF101, with its three folds."""

from __future__ import annotations

from data_pipelines.build.catalogs.catalog import Catalog, Source
from data_pipelines.build.catalogs.listing import FoldUses, classes
from data_pipelines.build.catalogs.source_tree import Line, read_lines

FOLDS = (1, 2, 3)


def list_items(source: Source) -> Catalog:
    """Lists every video of trainlist0k.txt and testlist0k.txt, in one split `all`.

    Classes are in the order and spelling of classInd.txt (HandstandPushups is HandStandPushups in
    other lists). Videos may have any suffix, and be in any folder except that of another class.
    Audio is not required, as half of the files have none.

    Raises:
      UserError: a list is missing or malformed, names a class that classInd.txt lacks, or
        contradicts itself or another.
    """
    lists = source.list_tree
    names = _classes(lists.find("classInd.txt"))
    spelling = {name.casefold(): name for name in names}
    uses = FoldUses()
    paths = {
        (fold, use): lists.find(f"{use}list{fold:02d}.txt")
        for fold in FOLDS
        for use in ("train", "test")
    }
    for (fold, use), path in paths.items():
        for row in read_lines(path):
            listed = row["line"].split()[0]
            row.check_path(listed)
            name, _, file = listed.partition("/")
            if name.casefold() not in spelling:
                raise row.fault(f"classInd.txt lacks the class of {listed}")
            uses.add(f"{spelling[name.casefold()]}/{file}", fold, use, row)
    return uses.catalog(source, names, train="train", test="test")


def _classes(path: str) -> tuple[str, ...]:
    """Returns the names in lines `number name`, in the order of the numbers."""
    rows = []
    for row in read_lines(path):
        number, *rest = row["line"].split()
        if not number.isdecimal() or len(rest) != 1:
            raise row.fault(f"{row['line']!r} is not 'number name'")
        rows.append(Line(row.path, row.line, {"number": number, "name": rest[0]}))
    return tuple(row["name"] for row in classes(rows, "number", "name"))
