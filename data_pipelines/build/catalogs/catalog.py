"""The items of a data set by its official files and lists, before it is built."""

from __future__ import annotations

import dataclasses
import functools
import math

from data_pipelines.build.catalogs.source_tree import Ignored, SourceTree
from data_pipelines.loader_config import MODALITIES, Modality


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of a data set, or a segment of it.

    Attributes:
      id: name in the official list; unique in its split.
      path: relative to the source folder, with forward slashes.
      label: the class; -1: none.
      labels: the classes, in a multi-label data set.
      label_text: names of the class or classes.
      train_folds: official folds that train on the item.
      test_folds: official folds that test on the item.
      start: of the segment in the file, in seconds.
      end: of the segment in the file, in seconds.
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
class HeldOut:
    """Files that were moved from the split `train` to `test`; none by default.

    Attributes:
      fraction: of each class's files.
      seed: of the choice.
      files: number of files that are held out.
      of: number of files before.
      single: classes with a single file, which stays in `train`.
    """

    fraction: float = 0.0
    seed: int = 0
    files: int = 0
    of: int = 0
    single: tuple[str, ...] = ()


NONE_HELD_OUT = HeldOut()


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A data set before it is built.

    Attributes:
      splits: the items of each split.
      class_names: in the published order.
      multi_label: whether items have `labels` in place of `label`.
      folds: number of official folds.
      modalities: modalities that a file must have.
      min_seconds: shorter files are left out.
      max_seconds: longer files are cut into records of this length; 0: never.
      ignored: unused files of the source and lines of its lists.
      held_out: files that an option of the build holds out.
    """

    splits: dict[str, list[Item]]
    class_names: tuple[str, ...] = ()
    multi_label: bool = False
    folds: int = 0
    modalities: tuple[Modality, ...] = MODALITIES
    min_seconds: float = 0.5
    max_seconds: float = 0.0
    ignored: tuple[Ignored, ...] = ()
    held_out: HeldOut = NONE_HELD_OUT


@dataclasses.dataclass(frozen=True)
class Source:
    """The location of a data set, and options of its catalog.

    Attributes:
      directory: folder of the files.
      lists: folder of the official lists; empty: `directory`.
      untrimmed: whether files are whole recordings, out of which the listed segments are cut.
      classes: number of classes of Kinetics-Sound, 32 or 31.
    """

    directory: str
    lists: str = ""
    untrimmed: bool = False
    classes: int = 32

    @functools.cached_property
    def tree(self) -> SourceTree:
        """The files below `directory`, listed once; raises as `SourceTree`."""
        return SourceTree(self.directory)

    @functools.cached_property
    def list_tree(self) -> SourceTree:
        """The files below `lists`, or `tree` if `lists` is empty."""
        return SourceTree(self.lists) if self.lists else self.tree
