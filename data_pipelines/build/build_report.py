"""The report of a build: its records, and every file that was left out."""

from __future__ import annotations

import collections
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.build.catalogs.catalog import NONE_HELD_OUT, HeldOut
from data_pipelines.build.catalogs.source_tree import Ignored
from data_pipelines.loader_config import MODALITIES
from data_pipelines.terminal import count, escaped

# Left-out files printed at the end of a build; report.json has all of them.
_NAMED = 20


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A file without records, with the category of the reason and its details."""

    split: str
    path: str
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The report of a finished shard; `size` is in bytes."""

    records: int
    size: int
    left_out: tuple[LeftOut, ...]


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """The report of a finished build.

    Attributes:
      name: of the data set.
      plan: digest of the plan.
      options: of the plan.
      records: number of records of each split.
      files: number of listed files.
      left_out: files without records.
      ignored: unused files of the source and lines of its lists.
      held_out: files that are the split `test` by an option.
    """

    name: str
    plan: str
    options: dict[str, Any]
    records: dict[str, int]
    files: int
    left_out: Sequence[LeftOut]
    ignored: Sequence[Ignored] = ()
    held_out: HeldOut = NONE_HELD_OUT

    @property
    def reasons(self) -> dict[str, int]:
        """Number of files left out for each reason."""
        return dict(sorted(collections.Counter(entry.reason for entry in self.left_out).items()))


# {reason: what to do to use the files that were left out for it}: another build.
REMEDIES = {
    "no audio": "build again with --modalities=video",
    "no video": "build again with --modalities=audio",
}


def applicable(remedies: Mapping[str, str], report: BuildReport) -> dict[str, str]:
    """Returns the remedies of reasons that a report has; none if one modality was requested."""
    media = report.options["media"]
    both = media["video"] and media["audio"]
    return {r: remedies[r] for r in report.reasons if both and r in remedies}


def summary(report: BuildReport, directory: str, remedies: Mapping[str, str] = REMEDIES) -> str:
    """Returns the lines that are printed at the end of a build.

    Args:
      report: of the build.
      directory: of the data set.
      remedies: {reason: what to do to use the files that were left out for it}.
    """
    splits = ", ".join(f"{split} {number:,}" for split, number in report.records.items())
    total = sum(report.records.values())
    lines = [f"{escaped(directory)}: {report.name} has {count(total, 'record')} ({splits})"]
    if report.held_out.files:
        lines.append(escaped(_held_out(report.held_out)))
    if report.left_out:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in report.reasons.items())
        files = count(report.files, "file")
        lines.append(f"left out {len(report.left_out):,} of {files}: {reasons}")
        lines += [escaped(f"  {e.path}: {e.reason} ({e.detail})") for e in report.left_out[:_NAMED]]
        if len(report.left_out) > _NAMED:
            lines.append(f"  ... {len(report.left_out) - _NAMED:,} more in report.json")
        for reason, text in applicable(remedies, report).items():
            lines.append(f"to use the {report.reasons[reason]:,} with {reason}, {text}")
    else:
        lines.append(f"no file left out of {report.files:,}")
    return "\n".join([*lines, *not_used(report.ignored)])


def not_used(ignored: Sequence[Ignored]) -> list[str]:
    """Returns a line for each kind of unused files or lines."""
    return [escaped(f"not used: {i.count:,} {i.what} (first: {i.example})") for i in ignored]


def next_command(report: BuildReport, directory: str) -> str:
    """Returns the command that shows a network's inputs from the records.

    Args:
      report: of the build.
      directory: of the data set.
    """
    media = report.options["media"]
    held = [modality for modality in MODALITIES if media[modality]]
    variant = "" if len(held) > 1 else f":reconstruction_{held[0]}"
    first = "train" if "train" in report.records else next(iter(report.records))
    split = "" if first == "train" else f" --config.data.split={first}"
    return (
        f"python -m data_pipelines.preview --config=configs/k400.py{variant}"
        f" --config.data.dir={shlex.quote(directory)}{split}"
    )


def _held_out(held_out: HeldOut) -> str:
    text = (
        f"held out {held_out.files:,} of {count(held_out.of, 'file')} as the split test"
        f" ({100 * held_out.fraction:g} % of each class, seed {held_out.seed})"
    )
    if held_out.single:
        names = ", ".join(name or "no class" for name in held_out.single)
        text += f"; none of classes with a single file: {names}"
    return text
