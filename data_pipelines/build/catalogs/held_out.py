"""Holds out files of a data set without test files, as its split `test`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence

from data_pipelines.build.catalogs.catalog import Catalog, HeldOut, Item
from data_pipelines.errors import UserError
from data_pipelines.format import storage

_FROM, _TO = "train", "test"


def hold_out(catalog: Catalog, directory: str, fraction: float, seed: int) -> Catalog:
    """Moves a fraction of each class's files from the split `train` to a new split `test`.

    Files are chosen by hashes of seed and path, so a choice depends on no order of the folder. All
    records of a file are in one split, also if links give it several paths. A class of two or more
    files has files in both splits.

    Args:
      catalog: with the single split `train`.
      directory: the folder (or URL) of the files.
      fraction: of the files, above 0 and below 1.
      seed: of the choice.

    Returns:
      The catalog with both splits and `held_out`.

    Raises:
      UserError: the data set has other splits or official folds, or no class has two files.
    """
    splits = [name for name, items in catalog.splits.items() if items]
    if splits != [_FROM] or catalog.folds:
        held = "official folds" if catalog.folds else f"the splits {', '.join(splits)}"
        raise UserError(f"--hold_out={fraction:g}: the data set has {held}: leave out --hold_out.")
    items = catalog.splits[_FROM]
    file_of = {item.path: _file(directory, item.path) for item in items}
    classes: dict[str, dict[str, str]] = {}  # {class: {file: its first path}}
    for item in items:
        classes.setdefault(item.label_text, {}).setdefault(file_of[item.path], item.path)
    chosen = {file for files in classes.values() for file in _some(files, fraction, seed)}
    if not chosen:
        raise UserError(
            f"--hold_out={fraction:g}: no class has two files, one to train and one to test: add"
            " files, or leave out --hold_out."
        )
    parts: dict[str, list[Item]] = {_FROM: [], _TO: []}
    for item in items:
        parts[_TO if file_of[item.path] in chosen else _FROM].append(item)
    single = tuple(sorted(name for name, files in classes.items() if len(files) == 1))
    held_out = HeldOut(fraction, seed, len(chosen), len(set(file_of.values())), single)
    return dataclasses.replace(catalog, splits=parts, held_out=held_out)


def _file(directory: str, path: str) -> str:
    """Returns the name of a file that all links to it share."""
    full = storage.join(directory, path)
    return full if storage.is_remote(full) else os.path.realpath(full)


def _some(files: dict[str, str], fraction: float, seed: int) -> Sequence[str]:
    number = min(max(round(fraction * len(files)), 1), len(files) - 1)
    return sorted(files, key=lambda file: _hash(files[file], seed))[:number]


def _hash(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {path}".encode("utf-8", "surrogateescape")).digest()
