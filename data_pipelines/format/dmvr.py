"""Parses records in the DMVR schema of scenic, without conversion of their shards.

A record is a `tf.train.SequenceExample` with `image/encoded` (one JPEG a frame),
`WAVEFORM/feature/floats` or `melspec/feature/floats`, and `clip/label/...`; `dmvr_shards` finds the
files. Records are resampled to the config's rates at reading: frames are selected by their time
stamps, and the spectrogram is computed from the waveform. A stored spectrogram is used if there is
no waveform and if it has the config's bands and columns per second.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
import soxr

from data_pipelines.errors import UserError
from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.format import record_schema, tf_example
from data_pipelines.format.metadata import Metadata
from data_pipelines.format.record_schema import Record
from data_pipelines.format.tf_example import Feature, FeatureList
from data_pipelines.loader_config import LoaderConfig

# A frame that is late by at most this many seconds counts as on time.
_EARLY = 0.001
_SAMPLE_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
# Bound of a sample's magnitude, at a full scale of 1.
_LOUDEST = 1000.0
# Upper bound of a record's length, in seconds.
_LONGEST = 100_000.0
# Relative error that is accepted for a rate inferred from durations.
_RATE_TOLERANCE = 0.05
_MELSPEC_BANDS, _MELSPEC_COLUMNS = 128, 100.0


def metadata_for(config: LoaderConfig) -> Metadata:
    """Returns metadata with the config's rates, to which `DmvrParser` resamples records."""
    audio = config.audio
    return Metadata(
        name="dmvr", frame_rate=config.video.frame_rate, short_side=0,
        sample_rate=audio.sample_rate, fft=audio.fft, hop=audio.hop, mels=audio.mels,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DmvrParser:
    """Parses serialized sequence examples to records at the rates of a config."""

    config: LoaderConfig

    def __call__(self, data: bytes | memoryview, where: str) -> Record:
        """Returns the record.

        Args:
          data: a serialized `SequenceExample`.
          where: name of the record in error messages.

        Raises:
          UserError: the data is not such an example, it has neither frames nor sound, or its rates
            can't be inferred.
        """
        try:
            example = _Example(*tf_example.parse_sequence_example(data))
            record = _record(example, self.config, where)
            if fault := record_schema.label_fault(
                record.label, record.labels, record_schema.MAX_CLASSES
            ):
                raise _InvalidError(f"has {fault}: correct clip/label/index")
            if fault := record_schema.size_fault(record):
                raise _InvalidError(f"exceeds the limits of a record ({fault}): cut it")
            return record
        except ValueError as error:  # a WireError, or text that is not UTF-8
            raise UserError(
                f"{where} is not a valid SequenceExample ({error}): copy or write the shard again."
            ) from None
        except _InvalidError as error:
            raise UserError(f"{where} {error}.") from None


class _InvalidError(Exception):
    """A record can't be used; the text is the end of a sentence, with a remedy."""


class _Example:
    """Typed access to a sequence example; missing features are empty."""

    def __init__(self, context: dict[str, Feature], lists: dict[str, FeatureList]):
        self._context = context
        self._lists = lists

    def frames(self) -> list[memoryview]:
        """Returns the JPEG of each frame."""
        return [value for step in self._steps("image/encoded") for value in step.bytes_list()]

    def frame_micros(self) -> np.ndarray:
        """Returns the time stamp of each frame in microseconds, float64 [frames]."""
        steps = [step.ints() for step in self._steps("image/timestamp")]
        return np.concatenate([np.zeros(0), *steps])

    def floats(self, name: str) -> np.ndarray:
        """Returns the float lists of a feature, concatenated, float32 [values]."""
        steps = [step.floats() for step in self._steps(name)]
        if (count := sum(len(step) for step in steps)) > record_schema.MAX_SAMPLES:
            raise _InvalidError(f"has {count:,} numbers in {name}: cut it into shorter records")
        return np.concatenate([np.zeros(0, np.float32), *steps])

    def ints(self, name: str) -> list[int]:
        """Returns an int64 list of the context."""
        return self._context[name].ints().tolist() if name in self._context else []

    def number(self, name: str) -> float:
        """Returns an int or float of the context; 0 if missing."""
        if name not in self._context:
            return 0.0
        feature = self._context[name]
        return float(
            next((value[0] for value in (feature.floats(), feature.ints()) if value.size), 0)
        )

    def texts(self, name: str) -> list[str]:
        """Returns a list of strings of the context."""
        values = self._context[name].bytes_list() if name in self._context else []
        return [record_schema.text(value, "replace") for value in values]

    def _steps(self, name: str) -> Iterable[Feature]:
        return self._lists.get(name, ())


def _record(example: _Example, config: LoaderConfig, where: str) -> Record:
    frames = example.frames()
    samples = _repair_samples(example.floats("WAVEFORM/feature/floats"))
    melspec = example.floats("melspec/feature/floats")
    if not frames and not samples.size and not melspec.size:
        if example.texts("log_mel"):  # a record in this package's layout
            raise _InvalidError("is of an unfinished build: run data_pipelines.build again")
        raise _InvalidError("has no image/encoded, WAVEFORM or melspec: check its schema")
    stated = _seconds(example, len(frames))
    rate = _sample_rate(example, samples.size, stated) if samples.size else 0
    seconds = stated or (
        samples.size / rate if rate else melspec.size / (_MELSPEC_BANDS * _MELSPEC_COLUMNS)
    )
    if samples.size:
        log_mel = _spectrogram(samples, rate, config)
    else:
        log_mel = _stored_spectrogram(melspec, config)
    start, end = (example.ints(f"clip/{k}/timestamp") for k in ("start", "end"))
    name = (example.texts("video/filename") or [""])[0]
    labels = example.ints("clip/label/index")
    text = example.texts("clip/label/text") or example.texts("caption/string")
    return Record(
        id=name or where.rstrip(","),
        path=name,
        frames=_pick(frames, _frame_times(example, len(frames), seconds), seconds, config),
        log_mel=record_schema.encode_log_mel(log_mel),
        label=labels[0] if len(labels) == 1 else -1,
        labels=tuple(labels) if len(labels) > 1 else (),
        label_text="; ".join(text),
        start=start[0] / 1e6 if start else 0.0,
        end=end[0] / 1e6 if end else seconds,
    )


def _seconds(example: _Example, frames: int) -> float:
    """Returns the length in seconds by the video or the clip's bounds; 0 if unknown."""
    micros = example.frame_micros()
    rate = example.number("image/frame_rate")
    start, end = (example.ints(f"clip/{k}/timestamp") for k in ("start", "end"))
    seconds = 0.0
    if len(micros) > 1:
        seconds = float(micros[-1] - micros[0]) / 1e6 * len(micros) / (len(micros) - 1)
    elif frames and rate:
        seconds = frames / rate
    elif start and end:
        seconds = (end[0] - start[0]) / 1e6
    if not 0 <= seconds <= _LONGEST:
        raise _InvalidError(f"has a length of {seconds:g} s by its time stamps: correct them")
    return seconds


def _sample_rate(example: _Example, samples: int, seconds: float) -> int:
    """Returns the waveform's sample rate: as stated, or the common rate that fits its duration."""
    if stated := example.number("WAVEFORM/feature/sample_rate"):
        if not _SAMPLE_RATES[0] <= stated <= _SAMPLE_RATES[-1]:
            raise _InvalidError(f"has a waveform at {stated:g} Hz: correct its sample rate")
        return round(stated)
    near = min(_SAMPLE_RATES, key=lambda rate: abs(samples - rate * seconds))
    if not seconds or abs(samples - near * seconds) > _RATE_TOLERANCE * samples:
        raise _InvalidError("has a waveform of unknown rate: add WAVEFORM/feature/sample_rate")
    return near


def _frame_times(example: _Example, frames: int, seconds: float) -> np.ndarray:
    """Returns the time of each frame in seconds after the first, float64 [frames]."""
    micros = example.frame_micros()
    if frames and micros.size:
        if len(micros) != frames or (np.diff(micros) < 0).any():
            raise _InvalidError(
                f"has {len(micros)} time stamps for {frames} frames, or not in order:"
                " correct image/timestamp"
            )
        return np.asarray((micros - micros[0]) / 1e6)
    if frames and not seconds:
        raise _InvalidError("has frames of unknown rate: add image/timestamp or image/frame_rate")
    return np.arange(frames) * (seconds / max(frames, 1))


def _pick(
    frames: list[memoryview], times: np.ndarray, seconds: float, config: LoaderConfig
) -> tuple[memoryview, ...]:
    """Returns the frame that is visible at each time of the config's frame rate."""
    if not frames:
        return ()
    rate = config.video.frame_rate
    count = math.ceil((seconds - _EARLY) * rate)
    if max(count, len(frames)) > record_schema.MAX_FRAMES:
        raise _InvalidError(
            f"has a length of {seconds:g} s by its time stamps: cut it into shorter records"
        )
    shown = np.arange(count) / rate
    places = np.searchsorted(times, shown + _EARLY, side="right") - 1
    return tuple(frames[max(place, 0)] for place in places)


def _repair_samples(samples: np.ndarray) -> np.ndarray:
    """Returns float32 samples; converts integers that were written as the bits of floats.

    A known fault of such shards. The bits of a small int32 read as float32 are 0, subnormal or NaN,
    which no real waveform consists of. Full scale is that of 16 bits, or of 32 bits if exceeded.
    """
    integers = samples.view(np.int32)
    if (np.abs(samples) >= np.finfo(np.float32).tiny).any():
        if not (np.abs(samples) < _LOUDEST).all():
            raise _InvalidError(
                "has a waveform with samples that are not finite or too large: write it again"
            )
        return samples
    if not (integers & 0x7FFFFFFF).any():
        return samples
    scale = 2.0**15 if np.abs(integers.astype(np.int64)).max() <= 2**15 else 2.0**31
    return (integers / scale).astype(np.float32)


def _spectrogram(samples: np.ndarray, rate: int, config: LoaderConfig) -> np.ndarray:
    audio = config.audio
    if rate != audio.sample_rate:
        samples = soxr.resample(samples, rate, audio.sample_rate)
    return log_mel_lib.log_mel(samples, audio.sample_rate, audio.fft, audio.hop, audio.mels)


def _stored_spectrogram(melspec: np.ndarray, config: LoaderConfig) -> np.ndarray:
    audio = config.audio
    if not melspec.size:
        return np.zeros((audio.mels, 0), np.float32)
    if audio.mels != _MELSPEC_BANDS or audio.sample_rate != _MELSPEC_COLUMNS * audio.hop:
        raise _InvalidError(
            f"has no waveform but a spectrogram of {_MELSPEC_BANDS} bands at {_MELSPEC_COLUMNS:g}"
            f" columns a second: set audio.mels={_MELSPEC_BANDS} and audio.hop="
            f"{audio.sample_rate / _MELSPEC_COLUMNS:g}"
        )
    if melspec.size % audio.mels or not np.isfinite(melspec).all():
        raise _InvalidError("has an incomplete spectrogram: write it again")
    return melspec.reshape(-1, audio.mels).T
