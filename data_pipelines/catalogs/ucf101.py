"""UCF101, with its three folds."""

from __future__ import annotations

from data_pipelines.catalogs.catalog import Catalog, Item, Source
from data_pipelines.catalogs.source_tree import SourceTree, read_lines
from xkd_jax.errors import UserError

FOLDS = (1, 2, 3)


def list_items(source: Source) -> Catalog:
    """Lists every video of trainlist0k.txt and testlist0k.txt, in one split `all`.

    Classes are in the order of classInd.txt. Only video is asked for: half of the files have no
    sound.

    Raises:
      UserError: a list is missing or malformed, or names a class that classInd.txt lacks.
    """
    lists = source.list_tree
    names = _classes(lists.find("classInd.txt"))
    train: dict[str, list[int]] = {}
    test: dict[str, list[int]] = {}
    for fold in FOLDS:
        for path in _paths(lists, f"trainlist{fold:02d}.txt"):
            train.setdefault(path, []).append(fold)
        for path in _paths(lists, f"testlist{fold:02d}.txt"):
            test.setdefault(path, []).append(fold)
    files = source.tree.by_tail()
    items = []
    for path in sorted(train.keys() | test.keys()):
        name = path.split("/")[0]
        if name not in names:
            raise UserError(f"classInd.txt lacks the class of {path}: fetch the lists again.")
        items.append(
            Item(
                path,
                files.get(path, path),
                label=names.index(name),
                label_text=name,
                train_folds=tuple(train.get(path, ())),
                test_folds=tuple(test.get(path, ())),
            )
        )
    return Catalog({"all": items}, names, folds=3, modalities=("video",), min_seconds=0.0)


def _classes(path: str) -> tuple[str, ...]:
    """The names in lines `number name`, in the order of their numbers."""
    names: dict[int, str] = {}
    for row in read_lines(path):
        number, *rest = row["line"].split()
        if not number.isdecimal() or len(rest) != 1 or int(number) in names:
            raise row.fault(f"{row['line']!r} is not 'number name' with a number of its own")
        names[int(number)] = rest[0]
    return tuple(names[number] for number in sorted(names))


def _paths(lists: SourceTree, name: str) -> list[str]:
    return [row["line"].split()[0] for row in read_lines(lists.find(name))]
