"""Shards of a folder of videos, with the rates and sizes that a run needs."""

from __future__ import annotations

import dataclasses
import os
import shutil

from data_pipelines.build import build_plan, build_state
from data_pipelines.build.build_plan import BuildPlan
from data_pipelines.build.build_report import BuildReport
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.catalogs.folder import list_items
from data_pipelines.build.estimate import Estimate
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.build.media import MediaOptions
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.progress import duration
from data_pipelines.terminal import count, escaped

_NAME = "folder"  # as `data_pipelines.build --dataset=folder` names the data set


def make_plan(config: LoaderConfig, output: str) -> BuildPlan:
    """Lists the files of `data.videos`; returns the plan of their shards.

    Args:
      config: of the run.
      output: the folder (or URL) of the shards.

    Raises:
      UserError: the folder can't be listed or has no media files, or the shards would be inside it.
      UnreachableError: the storage does not respond.
    """
    source = _absolute(config.data.videos)
    build_plan.check_outside(output, source)
    catalog = dataclasses.replace(list_items(Source(source)), modalities=config.modalities)
    media = MediaOptions(
        video="video" in catalog.modalities,
        audio="audio" in catalog.modalities,
        frame_rate=config.video.frame_rate,
        short_side=config.data.short_side,
        sample_rate=config.audio.sample_rate,
        min_seconds=catalog.min_seconds,
    )
    audio = config.audio
    options = IngestOptions(media, audio.fft, audio.hop, audio.mels, catalog.max_seconds)
    return build_plan.make_plan(source, _NAME, catalog, options)


def finished(config: LoaderConfig, output: str) -> BuildReport | None:
    """Returns the report of finished shards of `data.videos`; None if there are none yet.

    Args:
      config: of the run.
      output: the folder (or URL) of the shards.

    Raises:
      UserError: the folder has another data set.
    """
    if not build_state.is_finished(output):
        return None
    report = build_state.read_report(output)
    source = "" if report is None else str(report.options.get("source", ""))
    if report is None or _resolved(source) != _resolved(config.data.videos):
        held = f"shards of {source}" if source else "another data set"
        raise UserError(
            f"{output} has {held}, and data.videos is {config.data.videos}: leave data.videos out"
            " to use them, or give another --config.data.dir."
        )
    return report


def changes(config: LoaderConfig, report: BuildReport, output: str) -> str:
    """Returns how `data.videos` differs now from the files that shards were made of, or "".

    Args:
      config: of the run.
      report: of the finished shards.
      output: their folder (or URL).
    """
    videos = config.data.videos
    try:
        plan = dataclasses.replace(make_plan(config, output), source=report.options["source"])
    except UserError as error:
        return f"note      {videos} can't be listed now, and its shards are used ({error})"
    if plan.digest == report.plan:
        return ""
    return (
        f"note      the shards of {videos} were made of other files or with other options, and are"
        " used unchanged: for new ones give another --config.data.dir or --workdir"
    )


def describe(found: Estimate, plan: BuildPlan, output: str, workers: int) -> str:
    """Returns a line with the time and disk space that a build will take.

    Args:
      found: the estimate.
      plan: of the build.
      output: the folder (or URL) of the shards.
      workers: number of processes of the estimate.
    """
    size = _bytes(found.size) if found.size else "an unknown number of bytes"
    time = duration(max(found.seconds, 1.0))
    text = (
        f"shards    of {count(found.files, 'file')} of {plan.source}: about {time}"
        f" with {count(workers, 'worker')}, and {size} in {output}"
        f" (from {count(found.sampled, 'file')})"
    )
    return escaped(text)


def check_space(found: Estimate, plan: BuildPlan, output: str) -> None:
    """Checks that the disk of a folder has room for the shards; a URL is not checked.

    Args:
      found: the estimate.
      plan: of the build.
      output: the folder (or URL) of the shards.

    Raises:
      UserError: there is not enough room.
    """
    if storage.is_remote(output):
        return
    free = shutil.disk_usage(output).free
    if found.size > free:
        raise UserError(
            f"{output} has {_bytes(free)} free, and the shards of {plan.source} take about"
            f" {_bytes(found.size)}: free disk space, or give --config.data.dir=FOLDER on a larger"
            " disk."
        )


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _absolute(path: str) -> str:
    return path if storage.is_remote(path) else os.path.abspath(path)


def _resolved(path: str) -> str:
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(path)
