"""Mixes the decoded sound of a file to one channel, and resamples it."""

from __future__ import annotations

import math

import av
import numpy as np
import soxr
from av.audio.plane import AudioPlane

from data_pipelines.build.damage import LONGEST_STEP_BACK, DamageError, UnfitError
from data_pipelines.build.sound_clock import SoundClock

# Tolerance of time stamps, in seconds, before they mean a gap or an overlap.
_TOLERANCE = 0.04
_LONGEST_GAP = 600.0
# Bytes of the samples of one record.
MAX_BYTES = 1 << 29
_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class SoundTrack:
    """Mono float32 samples between two times, placed by their time stamps.

    Mono is the mean of all channels. (libswresample's mix of two float channels is sqrt(2) louder.)
    Frames, of about 20 ms each, are processed in groups of about a second. Times are in seconds.
    """

    def __init__(self, sample_rate: int, start: float, end: float):
        self._sample_rate = sample_rate
        self._start, self._end = start, end
        self._source_rate = 0
        self._placed = 0
        self._gathered: list[np.ndarray] = []
        self._waiting = 0
        self._pieces: list[np.ndarray] = []
        self._made = 0
        self._resampler: soxr.ResampleStream | None = None
        self._clock = SoundClock()

    @property
    def empty(self) -> bool:
        """Whether no samples were added yet."""
        return not self._source_rate

    @property
    def full(self) -> bool:
        """Whether all samples up to the end were added."""
        return not self.empty and self.until >= self._end

    @property
    def until(self) -> float:
        """End of the samples so far."""
        if self.empty:
            return self._start
        return self._start + (self._placed + self._waiting) / self._source_rate

    def add(self, frame: av.AudioFrame, time: float | None) -> None:
        """Adds the next samples.

        Args:
          frame: the samples.
          time: of the first sample, in seconds; None: at the end of the last frame.

        Raises:
          DamageError: the time is implausible, the sample rate changes, or samples are not finite.
          UnfitError: there are too many samples.
        """
        if self.empty:
            self._source_rate = frame.sample_rate
            if frame.sample_rate != self._sample_rate:
                self._resampler = soxr.ResampleStream(frame.sample_rate, self._sample_rate, 1)
        if frame.sample_rate != self._source_rate:
            raise DamageError(
                f"its sample rate changes from {self._source_rate} to {frame.sample_rate}"
            )
        samples = _samples(frame)
        self._clock.add(samples.shape[1] / self._source_rate, time)
        late = self._late(time)
        if late:
            self.flush()
            self._append(np.zeros(max(late, 0), np.float32))
        self._gather(samples[:, max(-late, 0) :])

    def _gather(self, samples: np.ndarray) -> None:
        before = self._gathered[-1] if self._gathered else samples
        if len(before) != len(samples) or before.dtype != samples.dtype:
            self.flush()  # the number of channels or the format changes
        self._gathered.append(samples)
        self._waiting += samples.shape[1]
        if self._waiting >= self._source_rate:
            self.flush()

    def _late(self, time: float | None) -> int:
        """Returns the gap before a frame in samples; negative for an overlap.

        It is 0 within the tolerance, except for the first frame.
        """
        gap = 0.0 if time is None else time - self.until
        if gap > _LONGEST_GAP:
            raise DamageError(f"its audio time stamps jump by {gap:.1f} s")
        started = self._placed + self._waiting > 0
        if started and gap < -LONGEST_STEP_BACK:
            raise DamageError(f"its audio time stamps go back by {-gap:.1f} s")
        return 0 if started and abs(gap) <= _TOLERANCE else round(gap * self._source_rate)

    def flush(self) -> None:
        """Processes the gathered frames.

        Raises:
          DamageError: samples are not finite.
          UnfitError: there are too many samples.
        """
        gathered, self._gathered, self._waiting = self._gathered, [], 0
        if gathered:
            self._append(_mono(np.concatenate(gathered, axis=1)))

    def _append(self, samples: np.ndarray, last: bool = False) -> None:
        self._placed += len(samples)
        if self._resampler:
            samples = self._resampler.resample_chunk(samples, last=last)
        self._pieces.append(samples)
        self._made += samples.nbytes
        if self._made > MAX_BYTES:
            raise UnfitError(
                "too large",
                f"its samples take more than {MAX_BYTES >> 20} MiB, the limit of a record"
                " (--max_seconds cuts it into several)",
            )

    def check_clock(self) -> None:
        """Checks that time stamps and number of samples agree; called after the last sample.

        Raises:
          UnfitError: they disagree.
        """
        speed = self._clock.speed()
        if speed != 1:
            raise UnfitError(
                "damaged",
                f"its audio's time stamps run {speed:.3g} times as fast as its samples at"
                f" {self._source_rate} Hz",
            )

    def finish(self, seconds: float) -> np.ndarray:
        """Returns the waveform, float32 [samples], cut or padded to `seconds`.

        Must be called after `flush`. With infinite `seconds` its length is that of the sound.

        Raises:
          UnfitError: there are too many samples.
        """
        if self.empty:
            return np.zeros(0, np.float32)
        self._append(np.zeros(0, np.float32), last=True)
        sound = np.concatenate(self._pieces)
        if math.isinf(seconds):
            seconds = min(self._placed / self._source_rate, self._end - self._start)
        length = round(seconds * self._sample_rate)
        return np.pad(sound[:length], (0, max(0, length - len(sound))))


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Returns the samples of a frame, [channels, samples] in the dtype of the file.

    `to_ndarray` fails for more than seven planes.
    """
    channels, dtype = frame.layout.nb_channels, _DTYPES[frame.format.packed.name]
    if frame.format.is_planar:
        planes = [AudioPlane(frame, i) for i in range(channels)]
        return np.stack([np.frombuffer(memoryview(p), dtype, frame.samples) for p in planes])
    samples = np.frombuffer(memoryview(AudioPlane(frame, 0)), dtype, frame.samples * channels)
    return samples.reshape(-1, channels).T


def _mono(samples: np.ndarray) -> np.ndarray:
    mono = samples.mean(axis=0, dtype=np.float64)
    if samples.dtype == np.uint8:
        mono = (mono - 128) / 128
    elif samples.dtype.kind == "i":
        mono = mono / 2.0 ** (8 * samples.dtype.itemsize - 1)
    if not np.isfinite(mono).all():
        raise DamageError("its audio has samples that are not finite")
    return mono.astype(np.float32)
