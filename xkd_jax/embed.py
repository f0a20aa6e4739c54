"""Writes features of video and audio files, computed by a trained encoder.

    python -m xkd_jax.embed --checkpoint=RUN --source=VIDEOS --output=FEATURES

--checkpoint is a run, an exported folder, or a file of weights of a kind in docs/inference.md.
--source is a folder, a file, or a list of files (.txt, one path per line); URLs are accepted. A row
is a window of a file. FEATURES gets parquet files (path, start, end, video, audio; settings in
their metadata), or one npz for each source file. The same command resumes, and left_out.csv lists
every file that was left out, with the reason.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipelines import resumable_command, terminal, worker_processes
from data_pipelines.activity import Activity
from data_pipelines.build import build_report, file_records
from data_pipelines.build.file_workers import FileWorkers
from data_pipelines.build.ingest import FileResult, bytes_in_memory, lost
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import EXIT_FAILURE, UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import MODALITIES
from xkd_jax import compilation_cache
from xkd_jax.inference import embedding, loading
from xkd_jax.inference.feature_files import FeatureFolder, listed
from xkd_jax.inference.trained_model import BATCH_SIZE, Model
from xkd_jax.inference.windows import EmbedOptions, Windows

_JOB_TIMEOUT = 300.0
_LOAD_OPTIONS = ("network", "step", "compute_dtype", "heads", "video", "audio")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("xkd_jax.embed", __doc__)
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        action="append",
        help="trained weights; give it twice for one file of each modality",
    )
    add("--source", required=True, help="folder, file, or list of files (.txt)")
    add("--output", required=True, help="folder for the features")
    add("--window", type=float, help="seconds of a row (default: as the encoder was trained)")
    add("--hop", type=float, help="seconds between rows (default: the window)")
    add(
        "--pool",
        default="window",
        choices=("window", "file", "none"),
        help="window: a row for each; file: their mean; none: tokens, as npz only",
    )
    add(
        "--modalities",
        default="",
        help="video,audio or one of them (default: all that the weights have)",
    )
    add("--network", default="student", choices=("student", "teacher"), help="network of a run")
    add("--step", type=int, help="step of a run's checkpoint (default: the newest)")
    add(
        "--compute_dtype",
        choices=("float32", "bfloat16"),
        help="default: that of the run (auto: by the device), or float32",
    )
    add("--heads", type=int, help="attention heads, if the file of weights lacks the number")
    add(
        "--video",
        type=json.loads,
        metavar="JSON",
        help='input of a video encoder, if the file lacks it: {"frames": 16, "size": 224}',
    )
    add(
        "--audio",
        type=json.loads,
        metavar="JSON",
        help="input of an audio encoder, if the file lacks it: mels, columns, patch, as JSON",
    )
    add("--format", default="parquet", choices=("parquet", "npz"), help="format of the features")
    add("--shard", default="1/1", help="part of the files for this job: 2/8 is the second of eight")
    add("--batch_size", type=int, default=BATCH_SIZE, help="windows per batch")
    add(
        "--workers",
        type=int,
        default=worker_processes.usable_cores(),
        help="processes that decode; 0: this one",
    )
    add("--strict", action="store_true", help="fail if a file is left out")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    return resumable_command.exit_status(lambda: _run(args), args.output)


def _run(args: argparse.Namespace) -> int:
    index, count = _shard(args.shard)
    if args.pool == "none" and args.format == "parquet":
        raise UserError("--pool=none gives tokens, which parquet can't hold: give --format=npz.")
    if not 0 <= args.workers <= 1024:
        raise UserError(f"--workers={args.workers}: give 0 to 1024.")
    options = EmbedOptions(args.window, args.hop, args.pool, args.batch_size)
    compilation_cache.enable(terminal.print_text)
    with Activity("loading the weights"):
        model = loading.load(**_loaded(args))
    windows = Windows.of(model, options)
    with Activity("listing the files"):
        files, ignored = listed(args.source)
    for line in build_report.not_used(ignored):
        terminal.print_text(line)
    settings = _settings(model, windows)
    folder = FeatureFolder(args.output, files, settings, args.format, _loaded(args))
    folder.prepare()
    _make(folder, windows, range(index, folder.parts(), count), args.workers)
    return _report(folder, args)


def _loaded(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `load`; paths of this machine are absolute."""
    source = [p if storage.is_remote(p) else os.path.abspath(p) for p in args.checkpoint]
    given = {name: getattr(args, name) for name in _LOAD_OPTIONS}
    return {"source": source, **given, "modalities": _modalities(args.modalities)}


def _modalities(text: str) -> list[str] | None:
    asked = text.split(",") if text else None
    if asked and not set(asked) <= set(MODALITIES):
        raise UserError(f"--modalities={text}: give video, audio or video,audio.")
    return asked


def _shard(text: str) -> tuple[int, int]:
    """Returns the number of this job, from 0, and the number of jobs."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"--shard={text}: give N/COUNT, such as 2/8.")
    return int(number) - 1, int(count)


def _settings(model: Model, windows: Windows) -> dict[str, Any]:
    """Settings that the features depend on, besides the files."""
    return {
        "model": str(model.origin),
        "digest": model.digest,
        "license": model.license,
        "widths": {m: config.transformer.width for m, config in model.config.items()},
        "compute_dtype": model.compute_dtype,
        "window": windows.seconds,
        "hop": windows.hop,
        "pool": windows.options.pool,
        "short_side": model.short_side,
    }


def _make(folder: FeatureFolder, windows: Windows, numbers: Sequence[int], workers: int) -> None:
    """Writes the missing parts; workers decode files ahead."""
    missing = folder.missing(numbers)
    total = sum(len(folder.files_of(n)) for n in numbers)
    done = total - sum(len(folder.files_of(n)) for n in missing)
    paths = [path for number in missing for path in folder.files_of(number)]
    with (
        tempfile.TemporaryDirectory() as waiting,
        Activity("embedding", total=total, done=done) as activity,
    ):
        results, rows = _results(windows.model, paths, workers, waiting), 0
        for number in missing:
            found: dict[str, embedding.Features] = {}
            left_out: dict[str, tuple[str, str]] = {}
            for path in folder.files_of(number):
                result = next(results)
                if not result.reason:
                    result = _encoded(windows, path, result, found)
                if result.reason:
                    left_out[path] = result.reason, result.detail
                done += 1
                rows += len(found[path].start) if path in found else 0
                if activity.is_due():
                    activity.show(done, f"{rows} rows")
                activity.reached(done)
            folder.write(number, found, left_out)


def _encoded(
    windows: Windows,
    path: str,
    result: FileResult,
    found: dict[str, embedding.Features],
) -> FileResult:
    """Adds the features of a file's records; returns the result, with the reason of a failure."""
    try:
        found[path] = embedding.features_of(windows, result.records)
    except UserError as error:
        return FileResult(reason="failed", detail=str(error))
    finally:
        file_records.discard(result.records)
    return result


def _results(
    model: Model, paths: Sequence[str], workers: int, waiting: str
) -> Iterator[FileResult]:
    read: Callable[..., FileResult] = functools.partial(embedding.reader_of(model), waiting=waiting)
    if not workers:
        yield from map(read, paths)
        return
    with FileWorkers(read, lost, min(workers, len(paths)), _JOB_TIMEOUT, bytes_in_memory) as pool:
        yield from pool.map(paths)


def _report(folder: FeatureFolder, args: argparse.Namespace) -> int:
    found = folder.summary()
    lost = len(found["left_out"])
    terminal.print_result(
        f"{folder.path}: {found['rows']} rows of {found['files']} files, {found['rows_of_both']}"
        f" rows with both modalities; {lost} of {found['files'] + lost} files left out"
        + (f" ({folder.path}/left_out.csv)." if lost else ".")
        + ("" if found["complete"] else " Other jobs' parts are missing.")
    )
    if lost and (args.strict or not found["files"]):
        return EXIT_FAILURE
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
