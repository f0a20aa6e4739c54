"""Cuts clips out of records; only frames of the clip are decoded.

Positions are in frames at the config's rate, for audio too, so that video and audio of a clip start
at the same time. For a record without frames, and in a run without video, positions are in columns
of the spectrogram. If a clip's sound is longer than its video (such as few frames with ten seconds
of sound), positions are in columns too, and the frames are in the middle of the sound.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import simplejpeg

from data_pipelines.errors import UserError
from data_pipelines.format import frame_bounds, kaldi, record_schema
from data_pipelines.format.record_schema import Record
from data_pipelines.loader_config import AudioConfig, LoaderConfig, Modality, VideoConfig
from data_pipelines.read.batches import Fill
from data_pipelines.read.frame_cuts import Cut, Cuts, cut_frames

# Frames that are decoded, then cut together: few calls, and they stay in the processor's cache.
_GROUP = 4


def at_frame_rate(record: Record, stored: float, wanted: float) -> Record:
    """Returns a record with a lower frame rate, made of the stored frames that are nearest in time.

    Args:
      record: the record, which is returned unchanged if its rate is not above the wanted one.
      stored: rate of its frames, in Hz; 0: no frames, or unknown.
      wanted: the lower rate, in Hz.
    """
    if not record.frames or stored <= wanted:
        return record
    count, step = len(record.frames), stored / wanted
    places = np.rint(np.arange(math.ceil(count / step)) * step).astype(int)
    frames = [record.frames[place] for place in np.minimum(places, count - 1)]
    return dataclasses.replace(record, frames=frames)


def sound_columns(record: Record, audio: AudioConfig) -> int:
    """Returns the number of columns of a record's spectrogram; 0 without sound."""
    if audio.spectrogram == "kaldi":
        return kaldi.columns(len(record.waveform))
    return int(record.log_mel.shape[1])


def last_start(record: Record, config: LoaderConfig) -> int:
    """Returns the last position at which a whole clip fits; 0 if the record is shorter."""
    if _counts_frames(record, config):
        return max(0, len(record.frames) - config.video.frames)
    return max(0, sound_columns(record, config.audio) - config.audio.columns)


def _counts_frames(record: Record, config: LoaderConfig) -> bool:
    if config.sound_is_longer and sound_columns(record, config.audio):
        return False
    return bool(record.frames) and "video" in config.modalities


def middle_frame(record: Record, start: float, seconds: float, video: VideoConfig) -> int:
    """Returns the first of `video.frames` frames in the middle of a part of a record.

    Args:
      record: the record.
      start: start of the part, in seconds.
      seconds: its length.
      video: number and rate of the frames.
    """
    middle = (start + seconds / 2) * video.frame_rate - (video.frames - 1) / 2
    return min(max(int(middle), 0), max(len(record.frames) - video.frames, 0))


def spread_starts(record: Record, config: LoaderConfig, clips: int) -> np.ndarray:
    """Returns positions, int [clips], spread evenly over a record; one clip is centered."""
    last = last_start(record, config)
    if clips == 1:
        return np.array([last // 2])
    return np.rint(np.linspace(0, last, clips)).astype(int)


class Clip(NamedTuple):
    """A clip of a record before its frames are decoded.

    size: height and width of the frames, in pixels; None without video.
    log_mel: [mels, audio.columns] (`cut_sound`); None without audio.
    fill: writes the frames into the arrays of pending cuts (`ClipFrames.write`).
    """

    size: tuple[int, int] | None
    log_mel: np.ndarray | None
    fill: Fill


def cut_clip(
    record: Record,
    start: int,
    config: LoaderConfig,
    modalities: Sequence[Modality],
    where: str,
    stored_short_side: int = 0,
) -> Clip:
    """Returns the clip of a record that starts at a position.

    Args:
      record: the record.
      start: position of the clip.
      config: lengths, rates and sizes.
      modalities: the ones to cut.
      where: names the record in an error.
      stored_short_side: that the data set states of its frames; 0: it states none.

    Raises:
      UserError: the record lacks one of the modalities or is damaged.
    """
    size = log_mel = None
    fill: Fill = _nothing_pending
    if "video" in modalities:
        first = start
        if config.sound_is_longer and not _counts_frames(record, config):
            seconds = start * config.audio.hop / config.audio.sample_rate
            first = middle_frame(record, seconds, config.audio.seconds, config.video)
        frames = ClipFrames(
            record, first, config.video.frames, config.data.short_side, where, stored_short_side
        )
        size, fill = frames.size, frames.write
    if "audio" in modalities:
        log_mel = cut_log_mel(record, start, config, where)
    return Clip(size, log_mel, fill)


def _nothing_pending(pending: list[tuple[Any, np.ndarray]]) -> None:
    """Fills a row without video."""


class ClipFrames:
    """The frames of a clip, decoded a few at a time and cut into the batch.

    Frames with another short side (in shards made elsewhere) are scaled. Frames of a record shorter
    than the clip are repeated in a cycle.
    """

    def __init__(
        self,
        record: Record,
        start: int,
        count: int,
        short_side: int,
        where: str,
        stored_short_side: int = 0,
    ):
        """Reads the size of the first frame without decoding it.

        Args:
          record: the record.
          start: position of the clip's first frame.
          count: number of frames in the clip.
          short_side: of the frames after scaling, in pixels.
          where: name of the record in error messages.
          stored_short_side: of the frames in the data set; 0: frames of any size.

        Raises:
          UserError: the record has no frames, or the first is not a JPEG image or too large.
        """
        self._where = where
        self._count = count
        self._jpegs = record.frames[start : start + count]
        if not self._jpegs:
            raise UserError(
                f"{where} has no video: read only audio, or build the data set with video."
            )
        try:
            self._stored = simplejpeg.decode_jpeg_header(self._jpegs[0])[:2]
        except ValueError as error:
            raise self._damaged(error) from None
        if fault := frame_bounds.frame_fault(self._stored[0], self._stored[1], stored_short_side):
            raise self._damaged(fault)
        scale = short_side / min(self._stored)
        self.size = (round(self._stored[0] * scale), round(self._stored[1] * scale))

    def write(self, pending: Sequence[tuple[Cut | Cuts, np.ndarray]]) -> None:
        """Decodes the frames and writes them into the arrays of pending cuts.

        Args:
          pending: (cut, uint8 array of the cut's shape) each.

        Raises:
          UserError: a frame is not a JPEG image, or sizes of frames differ.
        """
        if fault := frame_bounds.scans_fault(self._jpegs):
            raise self._damaged(fault)
        cut_frames(self._groups(), len(self._jpegs), self._count, pending)

    def _groups(self) -> Iterator[np.ndarray]:
        """Yields the frames in order, uint8 [n, height, width, 3] for n of them at a time."""
        # All are decoded into the same memory, which stays in the processor's cache.
        memory = np.empty((min(_GROUP, len(self._jpegs)), *self._stored, 3), np.uint8)
        for first in range(0, len(self._jpegs), _GROUP):
            jpegs = self._jpegs[first : first + _GROUP]
            for jpeg, frame in zip(jpegs, memory, strict=False):
                self._decode(jpeg, frame)
            yield self._scaled(memory[: len(jpegs)])

    def _decode(self, jpeg: bytes | memoryview, frame: np.ndarray) -> None:
        try:  # refuses an image larger than the buffer before decoding it
            found = simplejpeg.decode_jpeg(jpeg, buffer=frame)
        except ValueError as error:
            raise self._damaged(error) from None
        if found.shape != frame.shape:
            raise self._damaged("the sizes of the record's frames differ")

    def _scaled(self, frames: np.ndarray) -> np.ndarray:
        if self._stored == self.size:
            return frames
        how = cv2.INTER_AREA if self.size < self._stored else cv2.INTER_LINEAR
        return np.stack([cv2.resize(f, self.size[::-1], interpolation=how) for f in frames])

    def _damaged(self, error: ValueError | str) -> UserError:
        return UserError(
            f"{self._where} has a frame that can't be decoded ({error}): build the shard again."
        )


def cut_log_mel(record: Record, start: int, config: LoaderConfig, where: str) -> np.ndarray:
    """Returns the spectrogram of a clip, as `cut_sound`: [mels, columns].

    Args:
      record: the record.
      start: position of the clip.
      config: rates, and length of the clip.
      where: name of the record in error messages.

    Raises:
      UserError: as `cut_sound`.
    """
    return cut_sound(record, first_column(record, start, config), config.audio, where)


def first_column(record: Record, start: int, config: LoaderConfig) -> int:
    """Returns the first column of a clip's spectrogram.

    Args:
      record: the record.
      start: position of the clip.
      config: rates, and length of the clip.
    """
    if not _counts_frames(record, config):
        return start
    columns_a_frame = config.audio.sample_rate / config.audio.hop / config.video.frame_rate
    return round(start * columns_a_frame)


def cut_sound(record: Record, first: int, audio: AudioConfig, where: str) -> np.ndarray:
    """Returns `audio.columns` columns of a record's spectrogram, [mels, columns].

    Args:
      record: the record.
      first: the first column.
      audio: kind and length of the spectrogram.
      where: name of the record in error messages.

    Returns:
      uint16 fixed point, with silence after the end, of `log_mel`; float32, with zeros after the
      end, of `kaldi`.

    Raises:
      UserError: the record has no sound, or no waveform for a filter bank.
    """
    if not record.log_mel.shape[1] and not record.waveform.size:
        raise UserError(f"{where} has no audio: read only video, or build the data set with audio.")
    if audio.spectrogram == "kaldi":
        if not record.waveform.size:
            raise UserError(
                f"{where} has no waveform, which Kaldi's filter bank is made from: build the shards"
                " again with --waveform."
            )
        return kaldi.columns_of(record.waveform, first, audio.columns, audio.mels)
    found = record.log_mel[:, first : first + audio.columns]
    if found.shape[1] == audio.columns:
        return found
    clip = np.full((record.log_mel.shape[0], audio.columns), record_schema.SILENCE, np.uint16)
    clip[:, : found.shape[1]] = found
    return clip
