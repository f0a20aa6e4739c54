"""Carrying out a build plan, shard by shard, so that it can go on after a kill.

While a data set is being built its folder has a sub-folder `.build` with the plan's digest and a
report of each finished shard, written after the shard itself, and with records that wait for
those of an earlier file. When every shard is finished the reports become `report.json`, the folder
gets the files that describe it, and `.build` goes. The lease that keeps other builds out lies
beside `.build`, as it is held until all that is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_pipelines import json_file
from data_pipelines.build import build_plan, build_report, common_cause, file_records
from data_pipelines.build.build_plan import BuildPlan, ShardPlan
from data_pipelines.build.build_report import BuildReport, LeftOut, ShardReport
from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.build.file_workers import FileWorkers
from data_pipelines.build.ingest import UNREACHABLE, FileResult, ingest
from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import shards, storage

REPORT = "report.json"
_STATE = ".build"
_PLAN = "plan.json"
# Bytes of a report, which names each file that is left out.
_MOST_REPORT = 2**30
_WAITING = "waiting"


def _no_progress(files: int) -> Callable[[FileResult], None]:
    return lambda result: None


def run(
    plan: BuildPlan,
    output: str,
    workers: int,
    timeout: float,
    make_progress: Callable[[int], Callable[[FileResult], None]] = _no_progress,
) -> BuildReport:
    """Builds what is missing of a data set, in worker processes of this machine.

    Args:
      plan: what to build.
      output: the folder (or URL).
      workers: number of processes.
      timeout: seconds that a file may go without giving a record.
      make_progress: given the number of files to come, returns what is called with the result of
        each.

    Raises:
      UserError: the folder holds another data set or build, or no file gave a record, or many
        failed for one reason that is not theirs.
      UnreachableError: files timed out, or the storage of one doesn't answer.
    """
    if done := read_finished(plan, output):
        return done
    with start(plan, output):
        todo = unfinished(plan, output)
        progress = make_progress(sum(len(shard.items) for shard in todo))
        work = functools.partial(ingest, directory=plan.source, options=plan.options)
        with file_workers(work, output, workers, timeout) as pool:
            results = pool.map(itertools.chain.from_iterable(shard.items for shard in todo))
            for shard in todo:
                write_shard(shard, _watched(results, progress), output)
        return finish(plan, output)


@contextlib.contextmanager
def file_workers(
    work: Callable[..., FileResult], output: str, workers: int, timeout: float
) -> Iterator[FileWorkers]:
    """Yields the processes that turn files into records.

    Args:
      work: `ingest`, but for the folder in which many records of a file wait.
      output: the folder (or URL) of a build that was started. They wait in it, or, of a URL, in a
        temporary folder of this machine.
      workers: number of processes.
      timeout: seconds that a file may go without giving a record.
    """
    with contextlib.ExitStack() as stack:
        waiting = (
            stack.enter_context(tempfile.TemporaryDirectory())
            if storage.is_remote(output)
            else storage.join(storage.join(output, _STATE), _WAITING)
        )
        work = functools.partial(work, waiting=waiting)
        yield stack.enter_context(FileWorkers(work, lost, workers, timeout, _bytes_in_memory))


def _bytes_in_memory(result: FileResult) -> int:
    return file_records.bytes_in_memory(result.records)


def lost(item: Item, reason: str, detail: str) -> FileResult:
    """Returns the result of a file whose decoder hung or crashed; see `FileWorkers`.

    `reason` is the category that the report counts, `detail` says what happened.
    """
    return FileResult(reason=reason, detail=detail)


def _watched(
    results: Iterable[FileResult], progress: Callable[[FileResult], None]
) -> Iterator[FileResult]:
    for result in common_cause.checked(results):
        progress(result)
        yield result


@contextlib.contextmanager
def start(plan: BuildPlan, output: str) -> Iterator[None]:
    """Prepares the folder for a build, or for going on with it, and keeps other builds out.

    Raises:
      UserError: the folder holds another data set or build, or another process is building in it.
    """
    splits = dict.fromkeys(shard.split for shard in plan.shards)
    storage.make_folder(output)
    busy = f"{output} is being built by another process"
    with storage.locked(output, busy, "wait until it has ended, or give another folder."):
        shards.start_dataset(output, plan.metadata, splits)
        state = storage.join(output, _STATE)
        storage.make_folder(state)
        _check_plan(plan, storage.join(state, _PLAN), output)
        shards.remove_leftovers(output)
        if not storage.is_remote(output):
            waiting = storage.join(state, _WAITING)
            storage.remove_folder(waiting)
            storage.make_folder(waiting)
        yield


@dataclasses.dataclass(frozen=True)
class _Begun:
    """What is kept of the plan of a build that is not finished."""

    digest: str
    options: dict[str, Any]


def _check_plan(plan: BuildPlan, path: str, output: str) -> None:
    options = build_plan.describe(plan)
    try:
        begun = json_file.build(_Begun, json_file.read(path))
    except FileNotFoundError:
        _write_json(path, {"digest": plan.digest, "options": options})
        return
    except json_file.ContentError as error:
        raise UserError(
            f"{output} holds an unfinished build whose plan is damaged ({path}: {error}): give"
            " another folder, or remove it."
        ) from None
    if begun.digest == plan.digest:
        return
    was, now = (_flat(json.loads(json.dumps(o))) for o in (begun.options, options))
    changes = [f"{key} {was.get(key)}, now {now[key]}" for key in now if was.get(key) != now[key]]
    other = "; ".join(changes) or "files, labels, --name or --shards"
    raise UserError(
        f"{output} holds an unfinished build with other {other}: give another folder, or remove it."
    )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value) if isinstance(value, dict) else {key: value}
    return flat


def unfinished(plan: BuildPlan, output: str) -> list[ShardPlan]:
    """Returns the shards that are still to be written, or lack files for no fault of theirs."""
    found = storage.sizes(output)
    return [
        shard
        for shard in plan.shards
        if (report := _read_report(output, shard)) is None
        or found.get(shard.name) != report.size
        or _is_in_doubt(report, len(shard.items))
    ]


def _is_in_doubt(report: ShardReport, files: int) -> bool:
    """Whether a file timed out, or all failed in the program, which another time they may not."""
    reasons = [entry.reason for entry in report.left_out]
    failed = sum(reason in common_cause.OF_PROGRAM for reason in reasons)
    return common_cause.TIMED_OUT in reasons or 0 < failed == files


def write_shard(shard: ShardPlan, results: Iterable[FileResult], output: str) -> ShardReport:
    """Writes one shard from the results of its files, in their order, and then its report.

    Raises:
      UnreachableError: the storage of a file doesn't answer; nothing is written.
    """
    left_out: list[LeftOut] = []

    def records() -> Iterator[bytes]:
        for item, result in zip(shard.items, results, strict=False):
            if result.reason == UNREACHABLE:
                raise UnreachableError(
                    f"{item.path} is out of reach ({result.detail}): check its storage, and where"
                    " it stays so put an empty file in its place; the same command goes on."
                )
            if result.reason:
                left_out.append(LeftOut(shard.split, item.path, result.reason, result.detail))
            yield from result.records
            file_records.discard(result.records)

    written = shards.write_shard(storage.join(output, shard.name), records())
    report = ShardReport(written.records, written.size, tuple(left_out))
    _write_json(_report_path(output, shard), dataclasses.asdict(report))
    return report


def finish(plan: BuildPlan, output: str) -> BuildReport:
    """Describes a data set whose shards are all finished.

    Raises:
      UserError: no file gave a record, or another build has ended in the same folder of a store.
      UnreachableError: files timed out, and are to be tried again.
    """
    finished: dict[str, list[ShardReport]] = {}
    for shard in plan.shards:
        report = _read_report(output, shard)
        if report is None:  # a store has no locks
            raise UserError(
                f"{output} has no report of {shard.name}, as another build has ended there: give"
                " the same command again."
            )
        finished.setdefault(shard.split, []).append(report)
    whole = BuildReport(
        plan.metadata.name,
        plan.digest,
        build_plan.describe(plan),
        {split: sum(r.records for r in reports) for split, reports in finished.items()},
        sum(len(shard.items) for shard in plan.shards),
        [entry for reports in finished.values() for r in reports for entry in r.left_out],
        plan.ignored,
    )
    _write_json(storage.join(output, REPORT), dataclasses.asdict(whole))
    _check_time_outs(whole, output)
    if not any(whole.records.values()):
        storage.remove_folder(storage.join(output, _STATE))
        raise UserError(_nothing(whole, plan.source, output))
    written = {
        split: [shards.Shard(r.records, r.size) for r in reports]
        for split, reports in finished.items()
    }
    metadata = dataclasses.replace(plan.metadata, left_out=whole.reasons)
    shards.finish_dataset(output, metadata, written)
    storage.remove_folder(storage.join(output, _STATE))
    return whole


def _nothing(whole: BuildReport, source: str, output: str) -> str:
    """Returns the sentence on a build without a record: what was expected and what was found."""
    of_program = [e for e in whole.left_out if e.reason in common_cause.OF_PROGRAM]
    first = (of_program or whole.left_out)[0]
    found = "".join(f", beside {i.count} {i.what} (first: {i.example})" for i in whole.ignored)
    remedy = "".join(
        f"to use those with {reason} give {option}, or "
        for reason, option in build_report.remedies(whole).items()
    )
    return (
        f"None of {whole.files} files of {source} gave a record (first: {first.path}:"
        f" {first.detail}){found}: {remedy}see {output}/{REPORT}."
    )


def _check_time_outs(whole: BuildReport, output: str) -> None:
    """Keeps a build unfinished that lacks files which timed out.

    Raises:
      UnreachableError: it does.
    """
    late = [entry for entry in whole.left_out if entry.reason == common_cause.TIMED_OUT]
    if late:
        raise UnreachableError(
            f"{len(late)} of {whole.files} files timed out (first: {late[0].path}:"
            f" {late[0].detail}), so the data set is not finished: see {output}/{REPORT}, and give"
            " the same command again to try them again, with a larger --timeout if they are long,"
            " or put an empty file in the place of each to leave it out."
        )


def read_finished(plan: BuildPlan, output: str) -> BuildReport | None:
    """Returns the report of the same plan's finished build in a folder, if there is one.

    Raises:
      UserError: its report is damaged.
    """
    path = storage.join(output, REPORT)
    if not storage.exists(storage.join(output, shards.DATASET_INFO)):
        return None
    try:
        report = json_file.build(BuildReport, json_file.read(path, _MOST_REPORT))
    except FileNotFoundError:
        return None
    except json_file.ContentError as error:
        raise UserError(
            f"{path} is damaged ({error}), so it can't be said what {output} was built from: give"
            " another folder, or use the data set as it is."
        ) from None
    return report if report.plan == plan.digest else None


def _read_report(output: str, shard: ShardPlan) -> ShardReport | None:
    path = _report_path(output, shard)
    try:
        return json_file.build(ShardReport, json_file.read(path, _MOST_REPORT))
    except (FileNotFoundError, json_file.ContentError):  # the shard is written again
        return None


def _report_path(output: str, shard: ShardPlan) -> str:
    return storage.join(storage.join(output, _STATE), f"{shard.name}.json")


def _write_json(path: str, values: dict[str, Any]) -> None:
    with storage.writer(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
