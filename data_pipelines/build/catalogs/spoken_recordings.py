"""The catalog of recordings of spoken digits, such as the Free Spoken Digit Dataset."""

from __future__ import annotations

import re

from data_pipelines.build.catalogs.catalog import Catalog, Item, Source
from data_pipelines.build.catalogs.file_index import FileIndex
from data_pipelines.build.catalogs.source_tree import counted
from data_pipelines.errors import UserError
from data_pipelines.terminal import count

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FILE = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_/]+)_(?P<index>\d+)\.wav")


def list_items(source: Source) -> Catalog:
    """Lists files `{digit}_{speaker}_{index}.wav`, in one split `all`.

    Fold k tests on the k-th speaker, in the order of their names, and trains on all others.

    Raises:
      UserError: there are fewer than two speakers, or two files of one recording.
    """
    tree = source.tree
    paths = FileIndex(tree.directory, tree.files, _recording).paths()
    found = [(path, match) for name, path in paths.items() if (match := FILE.fullmatch(name))]
    speakers = sorted({match["speaker"] for _, match in found})
    if len(speakers) < 2:
        raise UserError(
            f"{source.directory} has {{digit}}_{{speaker}}_{{index}}.wav of"
            f" {count(len(speakers), 'speaker')}: give recordings of at least two, as one is held"
            " out."
        )
    folds = {speaker: fold for fold, speaker in enumerate(speakers, 1)}
    items = [
        Item(
            match.string,
            path,
            label=int(match["digit"]),
            label_text=NAMES[int(match["digit"])],
            train_folds=tuple(k for k in folds.values() if k != folds[match["speaker"]]),
            test_folds=(folds[match["speaker"]],),
        )
        for path, match in found
    ]
    others = [path for path in tree.media() if _recording(path) is None]
    return Catalog(
        {"all": items},
        NAMES,
        folds=len(speakers),
        modalities=("audio",),
        min_seconds=0.0,
        ignored=(*counted("media files with other names", others), *tree.other_files()),
    )


def _recording(path: str) -> str | None:
    name = path.rsplit("/", 1)[-1]
    return name if FILE.fullmatch(name) else None
