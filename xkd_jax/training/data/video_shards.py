"""Shards of a folder of videos, made by all processes of a run before its first step."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import time
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines import worker_processes
from data_pipelines.build import build_report, build_state, builder, estimate, videos
from data_pipelines.build.build_plan import BuildPlan
from data_pipelines.build.build_progress import BuildProgress
from data_pipelines.errors import UserError, file_error
from data_pipelines.lease import LeaseHeldError
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.terminal import count, escaped
from xkd_jax.config.pretraining import ProbeConfig
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import (
    global_max,
    is_main_process,
    main_activity,
    number_of_main,
    on_main,
    print_on_main,
    run_on_all,
)
from xkd_jax.training.faults.joint_work import JointWork
from xkd_jax.training.faults.preemption import Preemption
from xkd_jax.training.faults.run_lease import SEEN_SECONDS

# {reason: what to do to train on the files that were left out for it}
_REMEDIES = {
    "no audio": "train on all of them by --config=FILE:reconstruction_video in another --workdir",
    "no video": "train on all of them by --config=FILE:reconstruction_audio in another --workdir",
}
_WHAT = "making shards"
_STOPPING = "stopping: the same command resumes; Ctrl-C again ends now"


def make(
    config: LoaderConfig, probe: ProbeConfig, folder: str, check_run: Callable[[], None]
) -> None:
    """Makes the shards of `data.videos`, resumes an interrupted build, or uses finished shards.

    Args:
      config: data and views of the run.
      probe: settings of the probes, which may need another split.
      folder: the folder (or URL) of the shards.
      check_run: called before they are made; an error that it raises prevents this.

    Raises:
      UserError: they can't be made, or the folder has other data.
      StoppedError: the program was preempted; the same command resumes.
    """
    if _is_finished(config, folder):
        return
    check_run()
    with main_activity("listing the files"):
        plan = run_on_all(lambda: _plan(config, probe, folder))
    agreement.require({f"files of {config.data.videos}": plan.digest})
    here, everywhere = _workers()
    with contextlib.ExitStack() as lease, Preemption(_STOPPING) as preemption:
        work = JointWork(_WHAT, preemption)
        started = work.run(
            lambda: is_main_process() and _started(config, plan, folder, work, lease)
        )
        if not global_max(int(started)):
            return
        if is_main_process():
            work.run(lambda: _estimate(plan, folder, work, here, everywhere))
        else:
            work.run(lambda: None)
        work.run(lambda: _build_part(plan, folder, work, here))
        on_main(lambda: _finish(plan, folder))


def _is_finished(config: LoaderConfig, folder: str) -> bool:
    """Whether the folder has the shards; the main process prints what differs from the files."""

    def look() -> bool:
        if (report := videos.finished(config, folder)) is None:
            return False
        with main_activity("comparing the files with the shards"):
            note = videos.changes(config, report, folder)
        if note:
            print_on_main(escaped(note))
        return True

    return bool(number_of_main(look))


def _plan(config: LoaderConfig, probe: ProbeConfig, folder: str) -> BuildPlan:
    """Returns the plan of the shards.

    Raises:
      UserError: the files can't be used, or the run needs a split that they don't have.
    """
    plan = videos.make_plan(config, folder)
    found = list(dict.fromkeys(shard.split for shard in plan.shards))
    needed = {"data.split": config.data.split.split("+")}
    if probe.enabled or probe.knn_every:
        needed["probe.split"] = [probe.split]
    for key, splits in needed.items():
        if lacking := [split for split in splits if split not in found]:
            raise UserError(
                f"{key} is {'+'.join(splits)}, and {config.data.videos} has only the split"
                f" {', '.join(found)}: give --config.{key}={found[0]}, or sub-folders named train,"
                f" validation and test, so that there is {lacking[0]}."
            )
    return plan


def _started(
    config: LoaderConfig, plan: BuildPlan, folder: str, work: JointWork, lease: contextlib.ExitStack
) -> bool:
    """Starts the build, after waiting for another run's build; False if that run finished it."""
    printed = False
    while True:
        try:
            with _file_errors(folder):
                lease.enter_context(builder.start(plan, folder))
            return True
        except LeaseHeldError:
            if not printed:
                print_on_main(f"waiting   for another process that makes shards in {folder}")
            printed = True
            work.tick()
        except UserError:
            if videos.finished(config, folder) is None:
                raise
            return False


def _estimate(plan: BuildPlan, folder: str, work: JointWork, here: int, everywhere: int) -> None:
    """Prints the time and disk space that the build will take.

    Raises:
      UserError: there is not enough room on the disk.
    """
    todo = builder.unfinished(plan.shards, folder)
    if len(todo) < len(plan.shards):
        done = len(plan.shards) - len(todo)
        print_on_main(f"resume    {done} of {count(len(plan.shards), 'shard')} are finished")
    items = list(itertools.chain.from_iterable(shard.items for shard in todo))
    if not items:
        return
    with main_activity("trying a sample of the files"), _file_errors(folder):
        found = estimate.estimate(plan, items, folder, here, work.tick)
    found = dataclasses.replace(found, seconds=found.seconds * here / everywhere)
    print_on_main(videos.describe(found, plan, folder, everywhere))
    if jax.process_count() > 1:
        print_on_main(
            f"          each of {jax.process_count()} processes makes a part of them; the progress"
            " below is that of the first one"
        )
    videos.check_space(found, plan, folder)


def _build_part(plan: BuildPlan, folder: str, work: JointWork, workers: int) -> None:
    """Builds this process' part of the shards; the main process shows its progress."""
    index, processes = jax.process_index(), jax.process_count()
    part = plan.shards[index::processes]
    shown = BuildProgress if is_main_process() else builder.no_progress
    with _file_errors(folder):
        if not _sees(plan, folder, work):
            raise UserError(
                f"{folder} on {socket.gethostname()} (process {index}) is not the folder of that"
                " name on the main process' host: give a --config.data.dir that all hosts share."
            )
        builder.build_shards(plan, part, folder, workers, make_progress=shown, tick=work.tick)


def _sees(plan: BuildPlan, folder: str, work: JointWork) -> bool:
    """Waits until this process sees the build that the main process started; False: it does not."""
    end = time.monotonic() + SEEN_SECONDS
    while not build_state.is_started(plan, folder):
        if time.monotonic() >= end:
            return False
        work.tick()
        time.sleep(1)
    return True


def _finish(plan: BuildPlan, folder: str) -> None:
    with main_activity("describing the shards"), _file_errors(folder):
        report = builder.finish(plan, folder, _REMEDIES)
    print_on_main(build_report.summary(report, folder, _REMEDIES))


def _workers() -> tuple[int, int]:
    """Returns the number of this process' workers, and that of all processes together."""
    host = np.array(zlib.crc32(socket.gethostname().encode()), np.uint32)
    hosts = np.ravel(multihost_utils.process_allgather(host))
    here = max(1, worker_processes.usable_cores() // int((hosts == host).sum()))
    return here, int(np.sum(multihost_utils.process_allgather(np.array(here))))


@contextlib.contextmanager
def _file_errors(folder: str) -> Iterator[None]:
    """Converts errors of the file system to a `UserError`."""
    try:
        yield
    except OSError as error:
        raise file_error(
            error, f"{error.filename or folder} can't be read or written"
            f" ({error.strerror or error}): free disk space there or correct its permissions, and"
            " repeat the command, which resumes.", writing=True,
        ) from error  # fmt: skip
