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
      UserError: a list is missing, or names a class that classInd.txt lacks.
    """
    lists = SourceTree(source.lists or source.directory)
    pairs = [line.split() for line in read_lines(lists.find("classInd.txt"))]
    names = tuple(name for _, name in sorted(pairs, key=lambda pair: int(pair[0])))
    train: dict[str, list[int]] = {}
    test: dict[str, list[int]] = {}
    for fold in FOLDS:
        for path in _paths(lists, f"trainlist{fold:02d}.txt"):
            train.setdefault(path, []).append(fold)
        for path in _paths(lists, f"testlist{fold:02d}.txt"):
            test.setdefault(path, []).append(fold)
    files = SourceTree(source.directory).by_tail()
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


def _paths(lists: SourceTree, name: str) -> list[str]:
    return [line.split()[0] for line in read_lines(lists.find(name))]
