"""Builds TFRecord shards from the files of a data set.

    python -m data_pipelines.build --dataset=folder --source=VIDEOS --output=SHARDS

After an interruption, the same command resumes: a shard gets its final name only when it is
complete and synced, and finished shards are kept. The same files and options give the same bytes
with any number of workers. `report.json` in the output lists every file that was left out, with the
reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from data_pipelines import resumable_command, terminal, worker_processes
from data_pipelines.activity import Activity
from data_pipelines.build import beam_build, build_plan, build_report, builder
from data_pipelines.build.build_plan import BuildPlan
from data_pipelines.build.build_progress import BuildProgress
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.catalogs.held_out import hold_out
from data_pipelines.build.ingest import IngestOptions
from data_pipelines.build.media import MediaOptions
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, AudioConfig, Modality, VideoConfig


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data_pipelines.build", __doc__)
    add = parser.add_argument
    video, audio, media = VideoConfig(), AudioConfig(), MediaOptions()
    add("--dataset", required=True, choices=sorted(CATALOGS), help="layout of the files")
    add("--source", required=True, help="folder of the files")
    add("--output", required=True, help="folder for the shards")
    add("--name", default="", help="name of the data set (default: as --dataset)")
    add("--lists", default="", help="folder of the official lists (default: the source)")
    add("--untrimmed", action="store_true", help="cut the listed segments out of whole recordings")
    add("--classes", type=int, default=32, help="number of classes of kinetics_sound: 32 or 31")
    add(
        "--modalities",
        default="",
        help="modalities that a file must have: video,audio or one of them",
    )
    add("--frame_rate", type=float, default=video.frame_rate, help="frames per second")
    add("--short_side", type=int, default=128, help="short side of the frames, in pixels")
    add("--jpeg_quality", type=int, default=media.jpeg_quality, help="1 to 100")
    add("--sample_rate", type=int, default=audio.sample_rate, help="in Hz")
    add(
        "--fft", type=int, default=audio.fft, help="length of the spectrogram's windows, in samples"
    )
    add(
        "--hop",
        type=int,
        default=audio.hop,
        help="distance of the spectrogram's columns, in samples",
    )
    add("--mels", type=int, default=audio.mels, help="number of mel bands of the spectrogram")
    add("--waveform", action="store_true", help="store the waveform too")
    add("--min_seconds", type=float, help="leave out files shorter than this, in seconds")
    add(
        "--max_seconds",
        type=float,
        help="cut longer files into records of this length, in seconds; 0: never",
    )
    add(
        "--keep_damaged",
        action="store_true",
        help="use a damaged file up to the damage",
    )
    add("--hold_out", type=float, help="fraction of each class's files that become the split test")
    add("--seed", type=int, default=0, help="seed of the choice of these files")
    add(
        "--shards",
        type=int,
        default=0,
        help="number of shards of each split (default: one per 256 files)",
    )
    add("--workers", type=int, default=worker_processes.usable_cores(), help="number of processes")
    add(
        "--timeout",
        type=float,
        default=builder.TIMEOUT,
        help="seconds of work on a file without a new record, after which it is stopped",
    )
    add(
        "--runner",
        default="",
        help="Apache Beam runner, in place of --workers; its options may follow",
    )
    return parser


def _plan(args: argparse.Namespace) -> BuildPlan:
    for key, low, high in (
        ("frame_rate", 0.1, 1000), ("short_side", 8, 4096), ("jpeg_quality", 1, 100),
        ("sample_rate", 1000, 400_000), ("fft", 16, 65536), ("hop", 1, 65536), ("mels", 1, 1024),
        ("shards", 0, 99_999), ("workers", 1, 1024), ("timeout", 1, 100_000),
        ("min_seconds", 0, 100_000), ("max_seconds", 0, 100_000), ("hold_out", 0.001, 0.999),
    ):  # fmt: skip
        value = getattr(args, key)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{key}={value:g}: give {low:g} to {high:g}.")
    if args.dataset == "folder":
        build_plan.check_outside(args.output, args.source)
    source = Source(args.source, args.lists, args.untrimmed, args.classes)
    catalog = CATALOGS[args.dataset](source)
    asked = {
        "modalities": _modalities(args.modalities),
        "min_seconds": args.min_seconds,
        "max_seconds": args.max_seconds,
    }
    catalog = dataclasses.replace(catalog, **{k: v for k, v in asked.items() if v is not None})
    if args.hold_out is not None:
        catalog = hold_out(catalog, args.source, args.hold_out, args.seed)
    media = MediaOptions(
        video="video" in catalog.modalities,
        audio="audio" in catalog.modalities,
        frame_rate=args.frame_rate,
        short_side=args.short_side,
        jpeg_quality=args.jpeg_quality,
        sample_rate=args.sample_rate,
        min_seconds=catalog.min_seconds,
        keep_damaged=args.keep_damaged,
    )
    options = IngestOptions(
        media, args.fft, args.hop, args.mels, catalog.max_seconds, args.waveform
    )
    return build_plan.make_plan(
        args.source, args.name or args.dataset, catalog, options, args.shards
    )


def _modalities(text: str) -> tuple[Modality, ...] | None:
    if not text:
        return None
    asked = text.split(",")
    if not set(asked) <= set(MODALITIES):
        raise UserError(f"--modalities={text}: give video, audio or video,audio.")
    return tuple(m for m in MODALITIES if m in asked)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    args, others = parser.parse_known_args(argv)
    if others and not args.runner:
        parser.error(terminal.escaped(f"unknown arguments: {' '.join(others)}"))
    return resumable_command.exit_status(lambda: _run(args, others), args.output)


def _run(args: argparse.Namespace, runner_arguments: Sequence[str]) -> int:
    with Activity("listing the files"):
        plan = _plan(args)
    if args.runner:
        arguments = [f"--runner={args.runner}", *runner_arguments]
        report = beam_build.run(plan, args.output, args.timeout, arguments)
    else:
        report = builder.run(plan, args.output, args.workers, args.timeout, BuildProgress)
    terminal.print_text(build_report.summary(report, args.output))
    terminal.print_next(build_report.next_command(report, args.output))
    return 0


if __name__ == "__main__":
    with terminal.guarded_output():
        sys.exit(main())
