"""The catalogs of Kinetics-400, and of Kinetics-Sound, a subset of its classes."""

from __future__ import annotations

import dataclasses
import math

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.listing import Listing
from data_pipelines.build.catalogs.source_tree import Line, counted, read_table
from data_pipelines.errors import UserError

_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
_LISTS = {
    "train.csv": "train", "val.csv": "validation", "validate.csv": "validation", "test.csv": "test",
}  # fmt: skip
_SPLITS = {"train": "train", "val": "validation", "validate": "validation", "test": "test"}

# The 32 classes of the authors of XKD; the version with 31 classes lacks strumming guitar.
_SOUND_CLASSES = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "strumming guitar",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)


def list_kinetics400(source: Source) -> Catalog:
    """Lists the lines of train.csv, val.csv (or validate.csv) and test.csv, if present.

    The stem of a line's file is `{youtube_id}_{start:06d}_{end:06d}` (in untrimmed sources
    `{youtube_id}`), with any suffix and folder. Classes are in the order of their names. Lines may
    lack a label, as in the official test list; their records have none.

    Raises:
      UserError: there is no list, a list is malformed, or two lines contradict each other.
    """
    rows = _read_rows(source)
    return _catalog(source, rows, tuple(sorted({row["label"] for row in rows if row["label"]})))


def list_kinetics_sound(source: Source) -> Catalog:
    """Lists the lines of the Kinetics-400 lists with one of the 32 (or 31) classes.

    Raises:
      UserError: `source.classes` is not 31 or 32, or as `list_kinetics400`.
    """
    if source.classes not in (31, 32):
        raise UserError(
            f"--classes={source.classes}: give 31 or 32, the numbers of classes of Kinetics-Sound."
        )
    left_out = "strumming guitar" if source.classes == 31 else ""
    names = tuple(name for name in _SOUND_CLASSES if name != left_out)
    rows = _read_rows(source)
    unknown = [str(row.place) for row in rows if not row["label"]]
    catalog = _catalog(source, [row for row in rows if row["label"] in names], names)
    return dataclasses.replace(
        catalog, ignored=(*counted("lines without a label", unknown), *catalog.ignored)
    )


def _read_rows(source: Source) -> list[Line]:
    tree = source.list_tree
    lists = tree.lists(_LISTS.get)
    if not lists:
        raise UserError(
            f"{tree.directory} has no train.csv, val.csv or test.csv of Kinetics: give their"
            " folder with --lists."
        )
    return [
        Line(
            row.path,
            row.line,
            row.fields | {"label": row.fields.get("label", "").replace("_", " ")},
        )
        for path in lists.values()
        for row in read_table(path, _COLUMNS)
    ]


def _catalog(source: Source, rows: list[Line], names: tuple[str, ...]) -> Catalog:
    files = source.tree.by_stem()
    numbers = {name: i for i, name in enumerate(names)}
    listing = Listing(shared=source.untrimmed)
    for row in rows:
        start, end = (int(row.number(key)) for key in ("time_start", "time_end"))
        if end <= start:
            raise row.fault(f"it ends at {end} s, not after its start at {start} s")
        if row["split"] not in _SPLITS:
            raise row.fault(f"{row['split']!r} is not a split of Kinetics")
        name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
        stem = row["youtube_id"] if source.untrimmed else name
        item = Item(
            name,
            "/".join(filter(None, (row["label"], f"{stem}.mp4"))),
            label=numbers.get(row["label"], -1),
            label_text=row["label"],
            start=start if source.untrimmed else 0.0,
            end=end if source.untrimmed else math.inf,
        )
        listing.add(_SPLITS[row["split"]], item, files.get(stem), row)
    return Catalog(listing.splits(), names, ignored=listing.ignored(source.tree))
