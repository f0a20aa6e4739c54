"""The files of a build in the folder of its data set.

During a build, the sub-folder `.build` has the digest of the plan, a report of each finished shard,
written after the shard, and temporary files of records that wait for those of an earlier file. At
the end, the reports are joined in `report.json`, and `.build` is removed. The lease file is beside
`.build`, not in it, because the lease is held until `.build` has been removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from typing import Any

from data_pipelines import json_file
from data_pipelines.build import build_plan
from data_pipelines.build.build_plan import BuildPlan, ShardPlan
from data_pipelines.build.build_report import BuildReport, ShardReport
from data_pipelines.errors import UserError
from data_pipelines.format import shards, storage

REPORT = "report.json"
OTHER_FOLDER = "give another folder for the shards"  # remedy in messages
_FOLDER, _PLAN, _WAITING = ".build", "plan.json", "waiting"
# Bytes of a report, which lists each file that is left out.
_MOST_REPORT = 2**30


def start(plan: BuildPlan, output: str) -> None:
    """Writes the plan of a build, or checks that an unfinished build has the same.

    Args:
      plan: what to build.
      output: the folder (or URL), whose lease is held.

    Raises:
      UserError: an unfinished build has another plan, or its plan is damaged.
    """
    storage.make_folder(_folder(output))
    _check_plan(plan, output)
    if not storage.is_remote(output):
        waiting = storage.join(_folder(output), _WAITING)
        storage.remove_folder(waiting)
        storage.make_folder(waiting)


@dataclasses.dataclass(frozen=True)
class _StartedPlan:
    """The content of the plan file of an unfinished build."""

    digest: str
    options: dict[str, Any]


def _check_plan(plan: BuildPlan, output: str) -> None:
    path, options = storage.join(_folder(output), _PLAN), build_plan.describe(plan)
    try:
        started = json_file.build(_StartedPlan, json_file.read(path))
    except FileNotFoundError:
        _write_json(path, {"digest": plan.digest, "options": options})
        return
    except json_file.ContentError as error:
        raise UserError(
            f"{output} has an unfinished build whose plan is damaged ({path}: {error}):"
            f" {OTHER_FOLDER}, or remove that one."
        ) from None
    if started.digest == plan.digest:
        return
    was, now = (_flat(json.loads(json.dumps(o))) for o in (started.options, options))
    changes = [f"{key} {was.get(key)}, now {now[key]}" for key in now if was.get(key) != now[key]]
    other = "; ".join(changes) or "files, labels, name or number of shards"
    raise UserError(
        f"{output} has an unfinished build with other {other}: {OTHER_FOLDER}, or remove that one."
    )


def is_started(plan: BuildPlan, output: str) -> bool:
    """Returns whether a build of the plan was started in a folder (or URL) and is not finished."""
    try:
        path = storage.join(_folder(output), _PLAN)
        return json_file.build(_StartedPlan, json_file.read(path)).digest == plan.digest
    except (FileNotFoundError, json_file.ContentError):
        return False


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


@contextlib.contextmanager
def waiting_folder(output: str) -> Iterator[str]:
    """Yields a local folder for temporary files of records.

    Args:
      output: the folder (or URL) of a started build.
    """
    if storage.is_remote(output):
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    else:
        yield storage.join(_folder(output), _WAITING)


def read_shard_report(output: str, shard: ShardPlan) -> ShardReport | None:
    """Returns the report of a finished shard; None if there is none, or a damaged one.

    Args:
      output: the folder (or URL).
      shard: of the plan.
    """
    try:
        return json_file.build(
            ShardReport, json_file.read(_report_path(output, shard), _MOST_REPORT)
        )
    except (FileNotFoundError, json_file.ContentError):  # the shard is written again
        return None


def write_shard_report(output: str, shard: ShardPlan, report: ShardReport) -> None:
    """Writes the report of a finished shard.

    Args:
      output: the folder (or URL).
      shard: of the plan.
      report: of the shard.
    """
    _write_json(_report_path(output, shard), dataclasses.asdict(report))


def write_report(output: str, report: BuildReport) -> None:
    """Writes the report of a build."""
    _write_json(storage.join(output, REPORT), dataclasses.asdict(report))


def remove(output: str) -> None:
    """Removes the files of a build, except its report."""
    storage.remove_folder(_folder(output))


def read_finished(plan: BuildPlan, output: str) -> BuildReport | None:
    """Returns the report of a finished build of the same plan, or None; raises as `read_report`."""
    report = read_report(output) if is_finished(output) else None
    return report if report is not None and report.plan == plan.digest else None


def is_finished(output: str) -> bool:
    """Returns whether a folder (or URL) has a complete data set."""
    return storage.exists(storage.join(output, shards.DATASET_INFO))


def read_report(output: str) -> BuildReport | None:
    """Returns the report of a complete data set; None if it was not built from files.

    Raises:
      UserError: the report is damaged.
    """
    path = storage.join(output, REPORT)
    try:
        return json_file.build(BuildReport, json_file.read(path, _MOST_REPORT))
    except FileNotFoundError:
        return None
    except json_file.ContentError as error:
        raise UserError(
            f"{path} is damaged ({error}), so the plan of {output} is unknown: {OTHER_FOLDER},"
            " or use the existing data set."
        ) from None


def _folder(output: str) -> str:
    return storage.join(output, _FOLDER)


def _report_path(output: str, shard: ShardPlan) -> str:
    return storage.join(_folder(output), f"{shard.name}.json")


def _write_json(path: str, values: dict[str, Any]) -> None:
    with storage.writer(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
