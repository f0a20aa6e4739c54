"""The catalog of AudioSet."""

from __future__ import annotations

import math

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.listing import Listing, classes
from data_pipelines.build.catalogs.source_tree import Line, read_table
from data_pipelines.errors import UserError

LISTS = {
    "balanced_train_segments.csv": "balanced_train",
    "unbalanced_train_segments.csv": "unbalanced_train",
    "eval_segments.csv": "eval",
}
_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def list_items(source: Source) -> Catalog:
    """Lists the segments of the official lists that are present.

    The stem of a segment's file is that of one of the usual download tools: the identifier `{ytid}`
    or `Y{ytid}`, alone or with `_{start}` or `_{start}_{end}`, in seconds (plain, with three
    decimals, or six digits) or milliseconds. In untrimmed sources it is the identifier. A file that
    could belong to several segments is not used.
    Classes are in the order of class_labels_indices.csv; multi-label.

    Raises:
      UserError: a list is missing or malformed, names a class that class_labels_indices.csv
        lacks, or contradicts itself or another.
    """
    lists = source.list_tree
    listed = read_table(lists.find("class_labels_indices.csv"), ("index", "mid", "display_name"))
    table = classes(listed, "index", "mid")
    names = tuple(row["display_name"] for row in table)
    numbers = {row["mid"]: i for i, row in enumerate(table)}
    listed_splits = lists.lists(LISTS.get)
    if not listed_splits:
        raise UserError(
            f"{lists.directory} has none of {', '.join(LISTS)}: give their folder with --lists."
        )
    listing = Listing(listed_splits, shared=source.untrimmed)
    files = source.tree.by_stem()
    for split, path in listed_splits.items():
        for row in read_table(path, _COLUMNS, header=False):
            item, stems = _segment(row, source, numbers, names)
            found = next((stem for stem in stems if stem in files), None)
            listing.add(split, item, files.get(found) if found else None, row)
    return Catalog(listing.splits(), names, multi_label=True, ignored=listing.ignored(source.tree))


def _segment(
    row: Line, source: Source, numbers: dict[str, int], names: tuple[str, ...]
) -> tuple[Item, list[str]]:
    """Returns the item of a line, and the possible stems of its file."""
    identifier, mids = row["YTID"], row["positive_labels"].split(",")
    start, end = row.number("start_seconds"), row.number("end_seconds")
    if end <= start:
        raise row.fault(f"it ends at {end:g} s, not after its start at {start:g} s")
    if unknown := [mid for mid in mids if mid not in numbers]:
        raise row.fault(f"class_labels_indices.csv lacks the class {unknown[0]!r}")
    labels = tuple(sorted(numbers[mid] for mid in mids))
    stems = [identifier] if source.untrimmed else _stems(identifier, start, end)
    item = Item(
        f"{identifier}_{start:g}_{end:g}",
        f"{stems[0]}.mp4",
        labels=labels,
        label_text="; ".join(names[i] for i in labels),
        start=start if source.untrimmed else 0.0,
        end=end if source.untrimmed else math.inf,
    )
    return item, stems


def _stems(identifier: str, start: float, end: float) -> list[str]:
    forms = [
        lambda t: f"{round(t):06d}",
        lambda t: f"{round(t)}",
        lambda t: f"{t:.3f}",
        lambda t: f"{t:.1f}",
        lambda t: f"{round(1000 * t)}",
    ]
    tails = [f"_{form(start)}_{form(end)}" for form in forms]
    tails += [f"_{form(start)}" for form in forms]
    return [prefix + identifier + tail for tail in [*tails, ""] for prefix in ("", "Y")]
