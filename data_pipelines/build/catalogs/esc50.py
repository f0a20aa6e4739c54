"""The catalog of ESC-50, with its five folds."""

from __future__ import annotations

from data_pipelines.build.catalogs import suffixes
from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.listing import Listing
from data_pipelines.build.catalogs.source_tree import read_table

_FOLDS = (1, 2, 3, 4, 5)


def list_items(source: Source) -> Catalog:
    """Lists meta/esc50.csv in one split `all`; fold k tests on the recordings with that number.

    Classes are in the order of `target`.

    Raises:
      UserError: the list is missing or malformed, or contradicts itself.
    """
    lists = source.list_tree
    columns = ("filename", "fold", "target", "category")
    rows = list(read_table(lists.find("esc50.csv"), columns))
    classes: dict[int, str] = {}
    targets: dict[str, int] = {}
    for row in rows:
        if row["category"] != classes.setdefault(row.whole("target"), row["category"]):
            raise row.fault(f"target {row['target']} has two categories")
        if row.whole("target") != targets.setdefault(row["category"], row.whole("target")):
            raise row.fault(f"category {row['category']} has two targets")
        if row.whole("fold") not in _FOLDS:
            raise row.fault(f"fold is {row['fold']}, not one of {_FOLDS}")
    names = tuple(classes[target].replace("_", " ") for target in sorted(classes))
    numbers = {target: i for i, target in enumerate(sorted(classes))}
    files = source.tree.by_stem()
    listing = Listing(["all"])
    for row in rows:
        fold, label = row.whole("fold"), numbers[row.whole("target")]
        item = Item(
            row["filename"],
            f"audio/{row['filename']}",
            label=label,
            label_text=names[label],
            train_folds=tuple(k for k in _FOLDS if k != fold),
            test_folds=(fold,),
        )
        listing.add("all", item, files.get(suffixes.stem(row["filename"])), row)
    return Catalog(
        listing.splits(),
        names,
        folds=5,
        modalities=("audio",),
        min_seconds=0.0,
        ignored=listing.ignored(source.tree),
    )
