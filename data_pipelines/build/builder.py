"""Builds the shards of a plan; an interrupted build resumes, from its files in `build_state`.

When all shards are finished, their reports are joined to `report.json`, the JSON files of the data
set are written, and the state is removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from data_pipelines import lease
from data_pipelines.build import build_plan, build_report, build_state, common_cause, file_records
from data_pipelines.build.build_plan import BuildPlan, ShardPlan
from data_pipelines.build.build_report import BuildReport, LeftOut, ShardReport
from data_pipelines.build.build_state import OTHER_FOLDER, REPORT
from data_pipelines.build.file_workers import FileWorkers
from data_pipelines.build.ingest import UNREACHABLE, FileResult, bytes_in_memory, ingest, lost
from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import shards, storage
from data_pipelines.terminal import count

TIMEOUT = 300.0  # default seconds of work on a file without a finished record
_Progress = Callable[[FileResult], None]


@contextlib.contextmanager
def no_progress(files: int) -> Iterator[Callable[[FileResult], None]]:
    """Yields a function that shows nothing."""
    yield lambda result: None


def run(
    plan: BuildPlan,
    output: str,
    workers: int,
    timeout: float,
    make_progress: Callable[[int], AbstractContextManager[_Progress]] = no_progress,
) -> BuildReport:
    """Builds the unfinished shards of a data set, in worker processes of this machine.

    Args:
      plan: what to build.
      output: the folder (or URL).
      workers: number of processes.
      timeout: seconds of work on a file without a finished record.
      make_progress: (number of files) -> context of a function that is called with the result of
        each file.

    Raises:
      UserError: the folder has another data set or build, no file has records, or many files in a
        row failed for the same reason.
      UnreachableError: files timed out, or the storage of a file does not respond.
    """
    if done := build_state.read_finished(plan, output):
        return done
    with start(plan, output):
        build_shards(plan, plan.shards, output, workers, timeout, make_progress)
        return finish(plan, output)


def build_shards(
    plan: BuildPlan,
    part: Sequence[ShardPlan],
    output: str,
    workers: int,
    timeout: float = TIMEOUT,
    make_progress: Callable[[int], AbstractContextManager[_Progress]] = no_progress,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Builds the unfinished ones of some shards of a started build, in worker processes.

    Args:
      plan: that was started.
      part: the shards; several processes, also of several machines, may each build a part.
      output: the folder (or URL).
      workers: number of processes.
      timeout: seconds of work on a file without a finished record.
      make_progress: as for `run`.
      tick: called after each shard and about every second in between; an error that it raises ends
        the build, which can resume.

    Raises:
      UserError: many files in a row failed for the same reason.
      UnreachableError: the storage of a file does not respond.
    """
    todo = unfinished(part, output)
    files = sum(len(shard.items) for shard in todo)
    work = functools.partial(ingest, directory=plan.source, options=plan.options)
    with file_workers(work, output, workers, timeout) as pool, make_progress(files) as progress:
        items = itertools.chain.from_iterable(shard.items for shard in todo)
        results = pool.map(items, tick)
        for shard in todo:
            write_shard(shard, _watched(results, progress), output)
            tick()


@contextlib.contextmanager
def file_workers(
    work: Callable[..., FileResult], output: str, workers: int, timeout: float
) -> Iterator[FileWorkers]:
    """Yields the pool of processes that convert files to records.

    Args:
      work: `ingest` with all arguments except the item, `alive` and `waiting`.
      output: the folder (or URL) of a started build; temporary files of records are in it, or for a
        URL in a temporary folder of this machine.
      workers: number of processes.
      timeout: seconds of work on a file without a finished record.
    """
    with build_state.waiting_folder(output) as waiting:
        work = functools.partial(work, waiting=waiting)
        with FileWorkers(work, lost, workers, timeout, bytes_in_memory) as pool:
            yield pool


def _watched(results: Iterable[FileResult], progress: _Progress) -> Iterator[FileResult]:
    for result in common_cause.checked(results):
        progress(result)
        yield result


@contextlib.contextmanager
def start(plan: BuildPlan, output: str) -> Iterator[None]:
    """Starts or resumes a build: creates its folder, and holds its lease.

    Args:
      plan: what to build.
      output: the folder (or URL).

    Raises:
      UserError: the folder has another data set or build, or another process is building in it.
    """
    splits = dict.fromkeys(shard.split for shard in plan.shards)
    storage.make_folder(output)
    busy = f"{output} is being built by another process"
    with lease.held_on_disk(output, busy, f"wait until it has ended, or {OTHER_FOLDER}."):
        shards.start_dataset(output, plan.metadata, splits)
        build_state.start(plan, output)
        shards.remove_leftovers(output)
        yield


def unfinished(part: Sequence[ShardPlan], output: str) -> list[ShardPlan]:
    """Returns the shards to write: without a report, or with files that may succeed another time.

    Args:
      part: shards of a plan.
      output: the folder (or URL).
    """
    found = storage.sizes(output)
    return [
        shard
        for shard in part
        if (report := build_state.read_shard_report(output, shard)) is None
        or found.get(shard.name) != report.size
        or _may_improve(report, len(shard.items))
    ]


def _may_improve(report: ShardReport, files: int) -> bool:
    """Whether a file timed out, or all files failed by exceptions of the program."""
    reasons = [entry.reason for entry in report.left_out]
    failed = sum(reason in common_cause.OF_PROGRAM for reason in reasons)
    return common_cause.TIMED_OUT in reasons or 0 < failed == files


def write_shard(shard: ShardPlan, results: Iterable[FileResult], output: str) -> ShardReport:
    """Writes one shard from the results of its files, and then its report.

    Args:
      shard: its name and files.
      results: of the files, in the same order.
      output: the folder (or URL) of the data set.

    Raises:
      UnreachableError: the storage of a file does not respond; nothing is written.
    """
    left_out: list[LeftOut] = []

    def records() -> Iterator[bytes]:
        for item, result in zip(shard.items, results, strict=False):
            if result.reason == UNREACHABLE:
                raise UnreachableError(
                    f"{item.path} can't be reached ({result.detail}): check its storage, then"
                    " repeat the command, which resumes; to leave the file out, replace it by an"
                    " empty one."
                )
            if result.reason:
                left_out.append(LeftOut(shard.split, item.path, result.reason, result.detail))
            yield from result.records
            file_records.discard(result.records)

    written = shards.write_shard(storage.join(output, shard.name), records())
    report = ShardReport(written.records, written.size, tuple(left_out))
    build_state.write_shard_report(output, shard, report)
    return report


def finish(
    plan: BuildPlan, output: str, remedies: Mapping[str, str] = build_report.REMEDIES
) -> BuildReport:
    """Completes a data set whose shards are all finished: writes its report and its JSON files.

    Args:
      plan: of the built shards.
      output: the folder (or URL).
      remedies: as for `build_report.summary`.

    Raises:
      UserError: no file has records, or another build has ended at the same URL.
      UnreachableError: files timed out.
    """
    finished: dict[str, list[ShardReport]] = {}
    for shard in plan.shards:
        report = build_state.read_shard_report(output, shard)
        if report is None:  # URLs have no leases
            raise UserError(
                f"{output} has no report of {shard.name} because another build has ended there:"
                " repeat the command."
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
        plan.held_out,
    )
    build_state.write_report(output, whole)
    _check_time_outs(whole, output)
    if not any(whole.records.values()):
        build_state.remove(output)
        raise UserError(_no_records(whole, plan.source, output, remedies))
    written = {
        split: [shards.Shard(r.records, r.size) for r in reports]
        for split, reports in finished.items()
    }
    metadata = dataclasses.replace(plan.metadata, left_out=whole.reasons)
    shards.finish_dataset(output, metadata, written)
    build_state.remove(output)
    return whole


def _no_records(whole: BuildReport, source: str, output: str, remedies: Mapping[str, str]) -> str:
    """Returns the message for a build without records."""
    of_program = [e for e in whole.left_out if e.reason in common_cause.OF_PROGRAM]
    first = (of_program or whole.left_out)[0]
    found = "".join(f", and {i.count} {i.what} (first: {i.example})" for i in whole.ignored)
    remedy = "".join(
        f"to use those with {reason} {text}, or "
        for reason, text in build_report.applicable(remedies, whole).items()
    )
    return (
        f"None of {count(whole.files, 'file')} of {source} gave a record (first: {first.path}:"
        f" {first.detail}){found}: {remedy}see {output}/{REPORT}."
    )


def _check_time_outs(whole: BuildReport, output: str) -> None:
    """Checks that no file timed out; otherwise the build stays unfinished.

    Raises:
      UnreachableError: files timed out.
    """
    late = [entry for entry in whole.left_out if entry.reason == common_cause.TIMED_OUT]
    if late:
        raise UnreachableError(
            f"{len(late)} of {count(whole.files, 'file')} timed out (first: {late[0].path}:"
            f" {late[0].detail}), so the data set is not finished: see {output}/{REPORT}, and"
            " repeat the command to try them again (data_pipelines.build has --timeout for long"
            " ones); to leave a file out, replace it by an empty one."
        )
