"""Converts one listed file to serialized records, in a worker process."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

import av

from data_pipelines.build import file_records, media
from data_pipelines.build.catalogs.catalog import Item
from data_pipelines.build.file_records import RecordCollector
from data_pipelines.build.media import Media, MediaError, MediaOptions
from data_pipelines.errors import UnreachableError, is_transient
from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.format import record_schema, storage
from data_pipelines.format.record_schema import Record


@dataclasses.dataclass(frozen=True)
class IngestOptions:
    """Settings of the conversion of files to records.

    Attributes:
      media: of the decoding.
      fft: samples in a window of the spectrogram.
      hop: samples between columns of the spectrogram.
      mels: bands of the spectrogram.
      max_seconds: longer files are cut into records of this length; 0: never.
      waveform: whether to store the samples beside the spectrogram.
    """

    media: MediaOptions = dataclasses.field(default_factory=MediaOptions)
    fft: int = 1024
    hop: int = 143
    mels: int = 80
    max_seconds: float = 0.0
    waveform: bool = False


# Reason of files that can't be reached; their shard is not written until the build resumes.
UNREACHABLE = "unreachable"
# Seconds by which a piece may be shorter than requested, due to rounding to samples.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class FileResult:
    """The records of a file, or the reason why there are none.

    Attributes:
      records: serialized, in order of time; large ones in a temporary file.
      reason: category of the reason; empty if there are records.
      detail: the reason as text.
    """

    records: Sequence[bytes] = ()
    reason: str = ""
    detail: str = ""


def lost(item: object, reason: str, detail: str) -> FileResult:
    """Returns the result of a file whose decoder hung or crashed; see `FileWorkers`.

    Args:
      item: the file; not used.
      reason: category in the report.
      detail: text in the report.
    """
    return FileResult(reason=reason, detail=detail)


def bytes_in_memory(result: FileResult) -> int:
    """Returns the bytes of a result's records that are in memory; see `FileWorkers`."""
    return file_records.bytes_in_memory(result.records)


def ingest(
    item: Item,
    alive: Callable[[], None],
    *,
    directory: str,
    options: IngestOptions,
    waiting: str | None = None,
) -> FileResult:
    """Returns the records of a file, or why it is left out; does not raise for a bad file.

    Args:
      item: the file.
      alive: called between the records of a long file.
      directory: the folder (or URL) of the source.
      options: of the records.
      waiting: local folder for temporary files of records; None: hold them in memory.
    """
    try:
        with (
            _local(storage.join(directory, item.path)) as path,
            RecordCollector(waiting) as collector,
        ):
            for media_of_record in _pieces(path, item, options):
                number = len(collector)
                collector.add(_serialize(_record(item, number, media_of_record, options)))
                alive()
            records = collector.finish()
        if not records:
            segment = f"from {item.start:g} to {item.end:g} s"
            return FileResult(reason="too short", detail=f"it has no content {segment}")
        return FileResult(records)
    except MediaError as error:
        if error.reason == "missing" and _is_gone(directory):
            return FileResult(reason=UNREACHABLE, detail=f"{directory} no longer exists")
        return FileResult(reason=error.reason, detail=error.detail)
    except UnreachableError as error:
        return FileResult(reason=UNREACHABLE, detail=str(error))
    except Exception as error:  # decoders may raise anything: only this file is left out
        of_system = is_transient(error) and not isinstance(error, av.error.FFmpegError)
        reason = UNREACHABLE if of_system else "failed"
        return FileResult(reason=reason, detail=f"{type(error).__name__}: {error}")


def _is_gone(directory: str) -> bool:
    """Whether the source folder was unmounted or removed since its files were listed."""
    return not storage.is_remote(directory) and not os.path.isdir(directory)


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """Yields a local path of the file, which is a temporary copy for a URL."""
    if not storage.is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(path)[1]) as file:
        try:
            storage.fetch(path, cast(BinaryIO, file))
        except FileNotFoundError:
            raise MediaError(path, "missing", "there is no such file") from None
        yield file.name


def _pieces(path: str, item: Item, options: IngestOptions) -> Iterator[Media]:
    """Yields the item's segment of a file, in pieces of `max_seconds`."""
    start = item.start
    while start < item.end:
        end = min(item.end, start + (options.max_seconds or math.inf))
        try:
            piece = media.decode(path, options.media, start, end)
        except MediaError as error:
            # The rest after the piece before is empty or too short for a record, or damaged with
            # `keep_damaged`.
            ends = ["no video", "no audio", "too short"]
            ends += ["damaged"] if options.media.keep_damaged else []
            if start > item.start and error.reason in ends:
                return
            raise
        yield piece
        if piece.end < end - _ROUNDING:
            return
        start = end


def _serialize(record: Record) -> bytes:
    """Returns a serialized record.

    Raises:
      MediaError: the record is too large.
    """
    if fault := record_schema.size_fault(record):
        detail = f"{fault}: cut it into shorter records (--max_seconds)"
        raise MediaError(record.path, "too large", detail)
    return record_schema.serialize(record)


def _record(item: Item, number: int, piece: Media, options: IngestOptions) -> Record:
    log_mel = log_mel_lib.log_mel(
        piece.waveform, options.media.sample_rate, options.fft, options.hop, options.mels
    )
    waveform = piece.waveform if options.waveform else piece.waveform[:0]
    return Record(
        id=f"{item.id}#{number}" if number else item.id,
        path=item.path,
        frames=piece.frames,
        log_mel=record_schema.encode_log_mel(log_mel),
        waveform=record_schema.encode_waveform(waveform),
        label=item.label,
        labels=item.labels,
        label_text=item.label_text,
        train_folds=item.train_folds,
        test_folds=item.test_folds,
        start=piece.start,
        end=piece.end,
    )
