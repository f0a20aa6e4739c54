"""What a data set consists of, as its official files and lists say."""

from __future__ import annotations

import dataclasses
import functools
import math

from data_pipelines.build.catalogs.source_tree import Ignored, SourceTree
from data_pipelines.loader_config import MODALITIES, Modality


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of a data set, or one stretch of it.

    Attributes:
      id: name in the official list; unique in its split.
      path: below the source folder, with forward slashes.
      label: the class, or -1.
      labels: the classes, in a multi-label data set.
      label_text: the same in words.
      train_folds: official folds that train on it.
      test_folds: official folds that test on it.
      start: where the stretch begins in the file, in seconds.
      end: where it ends.
    """

    id: str
    path: str
    label: int = -1
    labels: tuple[int, ...] = ()
    label_text: str = ""
    train_folds: tuple[int, ...] = ()
    test_folds: tuple[int, ...] = ()
    start: float = 0.0
    end: float = math.inf


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A data set before it is built.

    Attributes:
      splits: the items of each split.
      class_names: in the published order.
      multi_label: whether items have `labels` and not `label`.
      folds: number of official folds.
      modalities: those that a file must have.
      min_seconds: files shorter than this are left out.
      max_seconds: longer files are cut into records of this length; 0: never.
      ignored: what of the source and its lists is not used.
    """

    splits: dict[str, list[Item]]
    class_names: tuple[str, ...] = ()
    multi_label: bool = False
    folds: int = 0
    modalities: tuple[Modality, ...] = MODALITIES
    min_seconds: float = 0.5
    max_seconds: float = 0.0
    ignored: tuple[Ignored, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set lies and how its files are to be taken.

    Attributes:
      directory: the folder of its files.
      lists: the folder of its official lists; empty: the same.
      untrimmed: whether files are whole recordings, out of which the listed stretches are cut.
      classes: 32 or 31, for Kinetics-Sound.
    """

    directory: str
    lists: str = ""
    untrimmed: bool = False
    classes: int = 32

    @functools.cached_property
    def tree(self) -> SourceTree:
        """What lies below `directory`, listed once; raises as `SourceTree`."""
        return SourceTree(self.directory)

    @functools.cached_property
    def list_tree(self) -> SourceTree:
        """What lies below `lists`, or the same as `tree`."""
        return SourceTree(self.lists) if self.lists else self.tree
