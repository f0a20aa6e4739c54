"""Any folder of videos."""

from __future__ import annotations

from data_pipelines.catalogs.catalog import Catalog, Item, Source
from data_pipelines.catalogs.source_tree import SourceTree

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LONGEST_RECORD = 60.0


def list_items(source: Source) -> Catalog:
    """Lists every file: the topmost sub-folder is its label, and files beside those have none.

    Where the topmost sub-folders are all called train, val, validation or test, they are splits
    and the labels lie one level below; otherwise everything is the split `train`. Classes are in
    the order of their names. Files longer than a minute become several records.
    """
    tree = SourceTree(source.directory)
    parts = [path.split("/") for path in tree.files]
    tops = {p[0] for p in parts if len(p) > 1}
    has_splits = bool(tops) and tops <= set(_SPLITS)
    level = 1 if has_splits else 0
    names = sorted({p[level] for p in parts if len(p) > level + 1})
    numbers = {name: i for i, name in enumerate(names)}
    splits: dict[str, list[Item]] = {}
    for path, p in zip(tree.files, parts, strict=True):
        split = _SPLITS[p[0]] if has_splits and len(p) > 1 else "train"
        name = p[level] if len(p) > level + 1 else ""
        item = Item(path, path, label=numbers.get(name, -1), label_text=name)
        splits.setdefault(split, []).append(item)
    return Catalog(splits, tuple(names), max_seconds=_LONGEST_RECORD)
