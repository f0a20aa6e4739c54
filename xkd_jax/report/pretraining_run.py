"""Content of the folder of a pretraining run, without its data and its network's outputs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Self

from data_pipelines import json_file
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.terminal import count
from xkd_jax.config import dataclass_schema
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import run_checkpoint
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.versions import versions
from xkd_jax.training.logs import event_files, goodput_file
from xkd_jax.training.logs.goodput import Accounts
from xkd_jax.training.result_file import FILE
from xkd_jax.training.run_results import PROBES, files_below

_WORDING = run_checkpoint.Wording("RUN", "another RUN")
_CONFIG = "config.json"
# Information of a teacher's output, in nats, below which the run has collapsed.
_LEAST_INFORMATION = 0.05


@dataclasses.dataclass(frozen=True)
class PretrainingRun:
    """The files of a run.

    Attributes:
      name: of the run on the page.
      folder: of the run.
      config: of the run.
      checkpoint: the newest; None without one.
      scalars: {step: {tag: value}} of TensorBoard.
      probes: {"before" or "after": {"{role} {modality}": top-1 accuracy in percent}}.
      goodput: accounts of its wall time; None without them.
      missing: {missing part of the run: reason}.
      warnings: sentences.
    """

    name: str
    folder: PurePath
    config: Config
    checkpoint: run_checkpoint.RunCheckpoint | None
    scalars: dict[int, dict[str, float]]
    probes: dict[str, dict[str, float]]
    goodput: Accounts | None
    missing: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def record(self) -> RunRecord | None:
        """Record of the newest checkpoint; None without one."""
        return None if self.checkpoint is None else self.checkpoint.record

    def with_warning(self, text: str) -> Self:
        """Returns a copy with one more warning."""
        return dataclasses.replace(self, warnings=(*self.warnings, text))


def is_pretraining(folder: PurePath) -> bool:
    """Whether a path is the folder of a pretraining run, with checkpoints or without."""
    described = run_checkpoint.is_run(folder) or storage.exists(str(folder / _CONFIG))
    return described and not storage.exists(str(folder / FILE))


def runs_in(paths: Sequence[PurePath]) -> tuple[list[PurePath], list[PurePath]]:
    """Returns the folders of pretraining runs, and the paths that have results of evaluations.

    Args:
      paths: folders of runs, folders of such folders, and paths of results; each run is returned
        once.
    """
    runs: dict[PurePath, PurePath] = {}  # by their places, which several paths may name
    others: dict[PurePath, None] = {}
    for path in paths:
        below = [path / name for name in storage.subfolders(str(path))]
        inside = sorted(p for p in below if is_pretraining(p))
        found = [path] if is_pretraining(path) else inside
        for folder in found:
            runs.setdefault(_place(folder), folder)
        if not found or files_below(path, FILE):
            others[path] = None
    return list(runs.values()), list(others)


def _place(folder: PurePath) -> PurePath:
    return folder.resolve() if isinstance(folder, Path) else folder


def names(folders: Sequence[PurePath]) -> list[str]:
    """Returns the shortest ends of paths that differ, at least their last names."""
    parts = [_place(folder).parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == len(set(parts)):
            break
    return found


def read(folder: PurePath, name: str) -> PretrainingRun:
    """Reads the files of a run.

    Args:
      folder: of the run.
      name: of the run on the page.

    Raises:
      UserError: its config or its newest checkpoint can't be used.
    """
    missing: dict[str, str] = {}
    notes: list[str] = []
    checkpoint = _checkpoint(folder, missing, notes)
    config = _config(folder) if checkpoint is None else checkpoint.config
    try:
        scalars = event_files.scalars(folder)
    except UserError as error:
        scalars, missing["curves"] = {}, str(error)
    else:
        if not scalars:
            missing["curves"] = "the run has no scalars in its folder tensorboard."
    probes = _probes(folder, missing)
    goodput = _goodput(folder, missing)
    found = PretrainingRun(name, folder, config, checkpoint, scalars, probes, goodput, missing, ())
    lines = (note.removeprefix("config").strip() + "." for note in notes)
    return dataclasses.replace(found, warnings=(*lines, *_warnings(found)))


def _checkpoint(
    folder: PurePath, missing: dict[str, str], notes: list[str]
) -> run_checkpoint.RunCheckpoint | None:
    if not run_checkpoint.is_run(folder):
        missing["checkpoint"] = "the run has no folder checkpoints."
        return None
    try:
        return run_checkpoint.opened(folder, 0, _WORDING, notes.append)
    except UserError as error:
        missing["checkpoint"] = str(error)
        return None


def _config(folder: PurePath) -> Config:
    try:
        content = json_file.read(str(folder / _CONFIG))
        return dataclass_schema.build(Config, content)
    except (FileNotFoundError, json_file.ContentError, UserError) as error:
        raise UserError(
            f"{folder} has no checkpoint, and its {_CONFIG} can't be used ({error}): give the"
            " folder of a pretraining run."
        ) from None


def _probes(folder: PurePath, missing: dict[str, str]) -> dict[str, dict[str, float]]:
    lacking = "linear probes"
    try:
        content: Any = json.loads(storage.read(str(folder / PROBES)))["linear_probe_top1"]
        return {m: {k: float(v) for k, v in content[m].items()} for m in ("before", "after")}
    except FileNotFoundError:
        missing[lacking] = f"the run has no {PROBES}: it has not ended, or probe.enabled is False."
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        missing[lacking] = f"{PROBES} can't be used ({type(error).__name__})."
    return {}


def _goodput(folder: PurePath, missing: dict[str, str]) -> Accounts | None:
    try:
        found = goodput_file.read(folder)
    except UserError as error:
        missing["goodput"] = str(error)
        return None
    if found is None:
        missing["goodput"] = f"the run has no {goodput_file.FILE}."
    return found


def _warnings(run: PretrainingRun) -> list[str]:
    found = []
    if run.record is not None:
        steps = run.config.length(run.record.records).steps
        if run.record.step < steps:
            found.append(
                f"The newest checkpoint is of step {run.record.step:,} of {steps:,}: the run has"
                " not ended."
            )
        if run.record.records < run.config.batch_size:
            found.append(
                f"{count(run.record.records, 'record')} are fewer than a batch of"
                f" {run.config.batch_size}: every batch repeats some."
            )
        here = versions()
        other = {k: v for k, v in run.record.versions.items() if here.get(k, v) != v}
        if other:
            listed = ", ".join(f"{k} {v}, here {here[k]}" for k, v in other.items())
            found.append(f"The checkpoint was written by other versions: {listed}.")
    for step in sorted(run.scalars, reverse=True):
        low = {
            tag: value
            for tag, value in run.scalars[step].items()
            if tag.endswith("_teacher_information") and value < _LEAST_INFORMATION
        }
        if low:
            listed = ", ".join(f"{tag} {value:.3f} nats" for tag, value in low.items())
            found.append(f"Signs of collapse at step {step:,}: {listed}; see docs/curves.md.")
        if any(tag.startswith("collapse/") for tag in run.scalars[step]):
            break
    return found
