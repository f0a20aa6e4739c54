"""FSD50K."""

from __future__ import annotations

import csv

from data_pipelines.catalogs.catalog import Catalog, Item, Source
from data_pipelines.catalogs.source_tree import SourceTree, read_lines, read_table
from xkd_jax.errors import UserError


def list_items(source: Source) -> Catalog:
    """Lists dev.csv (its splits train and validation) and eval.csv; multi-label.

    Files are `{fname}.wav` in folders whose names say dev or eval. Classes are in the order of
    vocabulary.csv.

    Raises:
      UserError: a list is missing, or names a class that vocabulary.csv lacks.
    """
    lists = SourceTree(source.lists or source.directory)
    vocabulary = list(csv.reader(read_lines(lists.find("vocabulary.csv"))))
    vocabulary.sort(key=lambda row: int(row[0]))
    names = tuple(row[1] for row in vocabulary)
    files = SourceTree(source.directory).by_stem()
    splits: dict[str, list[Item]] = {"train": [], "validation": [], "eval": []}
    for row in read_table(lists.find("dev.csv"), ("fname", "labels", "split")):
        split = {"train": "train", "val": "validation"}.get(row["split"])
        if split is None:
            raise UserError(f"dev.csv has the split {row['split']!r}: fetch it again.")
        splits[split].append(_item(row, "dev", files, names))
    for row in read_table(lists.find("eval.csv"), ("fname", "labels")):
        splits["eval"].append(_item(row, "eval", files, names))
    return Catalog(splits, names, multi_label=True, modalities=("audio",), min_seconds=0.0)


def _item(row: dict[str, str], part: str, files: dict[str, str], names: tuple[str, ...]) -> Item:
    found = row["labels"].split(",")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise UserError(f"vocabulary.csv lacks {unknown[0]}, of {row['fname']}: fetch it again.")
    labels = tuple(sorted(names.index(name) for name in found))
    path = files.get(row["fname"], f"FSD50K.{part}_audio/{row['fname']}.wav")
    return Item(row["fname"], path, labels=labels, label_text="; ".join(names[i] for i in labels))
