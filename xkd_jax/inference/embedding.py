"""Features of windows of files, bitwise equal to features of shards built from the files.

A file is decoded as by `data_pipelines.build`, in intervals of ten minutes, and a window is the
same as an evaluation's clip at that time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.build import file_records, ingest
from data_pipelines.build.media import MediaOptions
from data_pipelines.errors import UnreachableError, UserError
from data_pipelines.format import record_schema
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import Modality
from data_pipelines.read import clips, views
from data_pipelines.read.clips import ClipFrames
from xkd_jax.config.encoder import loader_config
from xkd_jax.inference.file_reader import Reader
from xkd_jax.inference.programs import cropped, normalized_spectrogram
from xkd_jax.inference.trained_model import Model
from xkd_jax.inference.windows import STRETCH, EmbedOptions, Windows


class Features(NamedTuple):
    """Rows of a file.

    Attributes:
      start: float64 [rows], in seconds of the file.
      end: float64 [rows].
      video: float32 [rows, width], or [rows, patches, width] of tokens; None: the file has no
        video, or the model no encoder of it.
      audio: likewise.
    """

    start: np.ndarray
    end: np.ndarray
    video: np.ndarray | None
    audio: np.ndarray | None


def embed(model: Model, source: str | os.PathLike[str], options: EmbedOptions) -> Features:
    """Returns the features of a file's windows.

    Args:
      model: the encoders.
      source: path or URL of the file.
      options: windows and pooling.

    Raises:
      UserError: the file can't be used, or a window is not a whole number of patches.
    """
    ((_, found),) = embed_files(model, [source], options, None)
    return found


def embed_files(
    model: Model,
    sources: Iterable[str | os.PathLike[str]],
    options: EmbedOptions,
    left_out: Callable[[str, str, str], None] | None,
) -> Iterator[tuple[str, Features]]:
    """Yields each file's path with its features.

    Args:
      model: the encoders.
      sources: paths or URLs of the files.
      options: windows and pooling.
      left_out: called with path, reason and detail of a file that can't be used; None: an error.

    Raises:
      UserError: a file can't be used, or a window is not a whole number of patches.
    """
    windows = Windows.of(model, options)
    reader = reader_of(model)
    with tempfile.TemporaryDirectory() as waiting:
        for source in sources:
            path = os.fspath(source)
            result = reader(path, waiting=waiting)
            if result.reason:
                if left_out is None:
                    raise _refusal(path, result)
                left_out(path, result.reason, result.detail)
                continue
            found = features_of(windows, result.records)
            file_records.discard(result.records)
            yield path, found


def reader_of(model: Model) -> Reader:
    """Returns the reader of a model's modalities, rates and sizes."""
    config = loader_config(model.config, model.short_side)
    media = MediaOptions(
        video="video" in model.config,
        audio="audio" in model.config,
        frame_rate=config.video.frame_rate,
        short_side=model.short_side,
        sample_rate=config.audio.sample_rate,
    )
    audio = config.audio
    kaldi = media.audio and audio.spectrogram == "kaldi"
    return Reader(ingest.IngestOptions(media, audio.fft, audio.hop, audio.mels, STRETCH, kaldi))


def features_of(windows: Windows, records: Iterable[bytes]) -> Features:
    """Returns the features of the windows of a file's records, encoded in batches.

    Args:
      windows: the model, and the sizes of its windows.
      records: the file's serialized records, in the order of time.

    Raises:
      UserError: a record is damaged, or a feature is not finite.
    """
    times: list[tuple[float, float]] = []
    found: dict[Modality, list[np.ndarray]] = {m: [] for m in windows.model.config}
    waiting: list[tuple[Any, ...]] = []
    for data in records:
        record = record_schema.parse(data, windows.config.audio.mels, "The file", classes=None)
        for start in windows.starts(record):
            begin = record.start + start
            times.append((begin, min(begin + windows.seconds, record.end)))
            waiting.append(_rows(windows, record, start))
            if len(waiting) == windows.options.batch_size:
                _encode(windows, waiting, found)
                waiting = []
    if waiting:
        _encode(windows, waiting, found)
    start, end = np.array(times).T
    arrays = {m: np.concatenate(parts) if parts else None for m, parts in found.items()}
    if not all(a is None or np.isfinite(a).all() for a in arrays.values()):
        raise UserError("Features are not finite: give compute_dtype=float32, or other weights.")
    if windows.options.pool == "file":
        start, end = start[:1], end[-1:]
        arrays = {m: None if a is None else a.mean(0, keepdims=True) for m, a in arrays.items()}
    return Features(start, end, arrays.get("video"), arrays.get("audio"))


def first_views(model: Model, source: str) -> dict[Modality, Any]:
    """The encoders' inputs of a file's first window, before normalization.

    Raises:
      UserError: the file can't be used.
    """
    windows = Windows.of(model, EmbedOptions())
    result = reader_of(model)(os.fspath(source))
    if result.reason:
        raise _refusal(source, result)
    record = record_schema.parse(result.records[0], windows.config.audio.mels, classes=None)
    video, audio = _rows(windows, record, 0.0)
    found: dict[Modality, Any] = {"video": video, "audio": audio}
    return {modality: rows for modality, rows in found.items() if rows is not None}


def _refusal(path: str, result: ingest.FileResult) -> UserError:
    kind = UnreachableError if result.reason == ingest.UNREACHABLE else UserError
    return kind(f"{path} can't be used ({result.reason}): {result.detail}.")


def _rows(
    windows: Windows, record: Record, start: float
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """The encoders' inputs of a window: boxes of frames, and columns of the spectrogram."""
    config = windows.config
    video = audio = None
    if record.frames and "video" in windows.model.config:
        first = round(start * config.video.frame_rate)
        if windows.seconds > config.video.seconds + 1 / config.video.frame_rate:
            first = clips.middle_frame(record, start, windows.seconds, config.video)
        frames = ClipFrames(record, first, config.video.frames, config.data.short_side, "The file")
        video = views.draw_eval_views(config, frames.size, None)["video"]["global"]
        cut = video["frames"]
        video["frames"] = np.zeros(cut.shape, cut.dtype)
        frames.write([(cut, video["frames"])])
    if record.log_mel.shape[1] and "audio" in windows.model.config:
        first = round(start * config.audio.sample_rate / config.audio.hop)
        audio = clips.cut_sound(record, first, config.audio, "The file")
    return video, audio


def _encode(
    windows: Windows, rows: list[tuple[Any, ...]], found: dict[Modality, list[np.ndarray]]
) -> None:
    model, options = windows.model, windows.options
    tokens = options.pool == "none"
    running: dict[Modality, Any] = {}
    videos, sounds = zip(*rows, strict=True)
    if "video" in found and videos[0] is not None:
        batch = {name: np.stack([row[name] for row in videos]) for name in videos[0]}
        running["video"] = model.run(
            "video", batch, cropped, tokens=tokens, batch_size=options.batch_size
        )
    if "audio" in found and sounds[0] is not None:
        running["audio"] = model.run(
            "audio", np.stack(sounds), normalized_spectrogram, tokens=tokens,
            batch_size=options.batch_size,
        )  # fmt: skip
    for modality, result in running.items():
        special = model.config[modality].special_tokens
        found[modality].append(np.asarray(result[0])[:, special:] if tokens else np.asarray(result))
