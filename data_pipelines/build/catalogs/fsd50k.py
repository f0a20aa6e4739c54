"""The catalog of FSD50K."""

from __future__ import annotations

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.listing import Listing, classes
from data_pipelines.build.catalogs.source_tree import Line, read_table


def list_items(source: Source) -> Catalog:
    """Lists dev.csv (splits train and validation) and eval.csv (split eval); multi-label.

    Files are `{fname}.wav` in any folder. Classes are in the order of vocabulary.csv.

    Raises:
      UserError: a list is missing or malformed, names a class that vocabulary.csv lacks, or
        contradicts itself or another list.
    """
    lists = source.list_tree
    columns = ("index", "label", "mid")
    listed = read_table(lists.find("vocabulary.csv"), columns, header=False)
    names = tuple(row["label"] for row in classes(listed, "index", "label"))
    files = source.tree.by_stem()
    listing = Listing(["train", "validation", "eval"])
    for row in read_table(lists.find("dev.csv"), ("fname", "labels", "split")):
        split = {"train": "train", "val": "validation"}.get(row["split"])
        if split is None:
            raise row.fault(f"split is {row['split']!r}, not train or val")
        listing.add(split, _item(row, "dev", names), files.get(row["fname"]), row)
    for row in read_table(lists.find("eval.csv"), ("fname", "labels")):
        listing.add("eval", _item(row, "eval", names), files.get(row["fname"]), row)
    return Catalog(
        listing.splits(),
        names,
        multi_label=True,
        modalities=("audio",),
        min_seconds=0.0,
        ignored=listing.ignored(source.tree),
    )


def _item(row: Line, part: str, names: tuple[str, ...]) -> Item:
    found = row["labels"].split(",")
    unknown = [name for name in found if name not in names]
    if unknown:
        raise row.fault(f"vocabulary.csv lacks {unknown[0]!r}, a label of {row['fname']}")
    labels = tuple(sorted(names.index(name) for name in found))
    path = f"FSD50K.{part}_audio/{row['fname']}.wav"
    return Item(row["fname"], path, labels=labels, label_text="; ".join(names[i] for i in labels))
