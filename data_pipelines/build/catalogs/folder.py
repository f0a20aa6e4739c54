"""The catalog of any folder of videos."""

from __future__ import annotations

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.errors import UserError

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LONGEST_RECORD = 60.0


def list_items(source: Source) -> Catalog:
    """Lists all media files, with the topmost sub-folder as label.

    Files that are not in a sub-folder have no label. If all topmost sub-folders are named train,
    val, validation or test, they are splits, and labels are one level below; otherwise all files
    are in the split `train`. Classes are in the order of their names. Files longer than a minute
    are cut into several records.

    Raises:
      UserError: there are no media files, or there are other folders beside several splits.
    """
    tree = source.tree
    media = tree.media()
    if not media:
        raise UserError(
            f"{source.directory} has no files of sound or video: give the folder of the data set."
        )
    parts = [path.split("/") for path in media]
    tops = {p[0] for p in parts if len(p) > 1}
    has_splits = bool(tops) and tops <= set(_SPLITS)
    if len(tops & set(_SPLITS)) > 1 and not has_splits:
        raise UserError(
            f"{source.directory} has the splits {', '.join(sorted(tops & set(_SPLITS)))} and other"
            f" folders ({', '.join(sorted(tops - set(_SPLITS)))}): move those to another place."
        )
    level = 1 if has_splits else 0
    names = sorted({p[level] for p in parts if len(p) > level + 1})
    numbers = {name: i for i, name in enumerate(names)}
    splits: dict[str, list[Item]] = {}
    for path, p in zip(media, parts, strict=True):
        split = _SPLITS.get(p[0], "train") if has_splits and len(p) > 1 else "train"
        name = p[level] if len(p) > level + 1 else ""
        item = Item(path, path, label=numbers.get(name, -1), label_text=name)
        splits.setdefault(split, []).append(item)
    return Catalog(splits, tuple(names), max_seconds=_LONGEST_RECORD, ignored=tree.other_files())
