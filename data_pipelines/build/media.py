"""Decodes a file of video and sound to JPEG frames and a waveform.

Reads any container and codec of ffmpeg, through PyAV. Each frame is sampled, scaled and compressed
when it is decoded, so memory depends on the output and not on the file. Decoders use one thread, as
there is one process per core. Their log is disabled by its level: a Python callback would deadlock
with decoder threads.

Time zero is the start of the video (of the audio, if video is not requested). Audio is placed by
its time stamps on the same clock, with silence in gaps, and is as long as the frames. The display
matrix is applied; pixels are treated as square.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import av
import numpy as np

from data_pipelines.build import matroska, media_file
from data_pipelines.build.damage import DamageError, MediaError, Reason, UnfitError
from data_pipelines.build.frame_track import FrameTrack
from data_pipelines.build.media_file import SourceFile
from data_pipelines.build.packets import BYTE_STREAMS, decode_packets
from data_pipelines.build.sound_track import SoundTrack
from data_pipelines.errors import UserError

# A seek goes to this many seconds before the start, for coarsely interleaved streams.
_PREROLL = 0.5
# Frames per second of a file without a frame rate.
_UNKNOWN_RATE = 25
# A file may end before its stated length by the larger of the two.
_ENDS_EARLY_SECONDS = 1.0
_ENDS_EARLY_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class MediaOptions:
    """Settings of the decoding.

    Attributes:
      video: whether to decode video; then a file without it is an error.
      audio: whether to decode audio; then a file without it is an error.
      frame_rate: frames per second.
      short_side: of the frames, in pixels; even.
      jpeg_quality: 1 to 100.
      sample_rate: in Hz.
      min_seconds: shorter files are an error.
      keep_damaged: whether to use the part of a damaged file before the damage.
    """

    video: bool = True
    audio: bool = True
    frame_rate: float = 8.0
    short_side: int = 128
    jpeg_quality: int = 90
    sample_rate: int = 16000
    min_seconds: float = 0.5
    keep_damaged: bool = False

    def __post_init__(self) -> None:
        if self.short_side < 2 or self.short_side % 2:
            raise UserError(f"short_side is {self.short_side}: give an even number of pixels.")


@dataclasses.dataclass(frozen=True, eq=False)
class Media:
    """A decoded file, or a segment of it.

    Attributes:
      frames: JPEG bytes of each frame; empty if video was not requested.
      waveform: float32 [samples], mono (the mean of the channels), full scale at 1.
      start: in the file, in seconds.
      end: in the file, in seconds.
    """

    frames: tuple[bytes, ...]
    waveform: np.ndarray
    start: float
    end: float


def decode(path: str, options: MediaOptions, start: float = 0.0, end: float = math.inf) -> Media:
    """Decodes the segment of a file from `start` to `end` seconds.

    Args:
      path: of the file.
      options: the modalities, rates and sizes of the result.
      start: in seconds from the start of the file.
      end: in seconds; infinity: the end of the file.

    Raises:
      MediaError: the file can't be read, lacks a requested stream, is damaged, too short or too
        large, or has a format that can't be decoded or converted.
      OSError: the file system does not respond.
    """
    try:
        tracks = _decode(path, options, start, end, seek=start > 0)
        if start > 0 and options.video and tracks.frames.began > start:
            # Without an index a seek is approximate, and this one went too far.
            tracks = _decode(path, options, start, end, seek=False)
        return _finish(path, options, start, tracks)
    except UnfitError as error:
        raise MediaError(path, error.reason, str(error)) from None
    except av.error.FFmpegError as error:
        detail = f"it can't be decoded ({media_file.message_of(error)})"
        raise MediaError(path, "damaged", detail) from None


@dataclasses.dataclass
class _Tracks:
    """The decoded tracks of a file so far, and its damage."""

    frames: FrameTrack
    sound: SoundTrack
    tick: float = 0.0
    frame_seconds: float = 0.0
    damage: str = ""
    # Whether samples are contiguous, independently of their time stamps.
    byte_stream: bool = False
    sought: bool = False
    # {"video" or "audio": error of undecodable packets before its first frame}
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def full(self, options: MediaOptions) -> bool:
        return (self.frames.full or not options.video) and (self.sound.full or not options.audio)


def _decode(path: str, options: MediaOptions, start: float, end: float, seek: bool) -> _Tracks:
    tracks = _Tracks(
        FrameTrack(options.frame_rate, options.short_side, options.jpeg_quality, start, end),
        SoundTrack(options.sample_rate, start, end),
    )
    with media_file.opened(path) as (source, container):
        streams = media_file.choose_streams(container, path, options.video, options.audio)
        tracks.byte_stream = container.format.name in BYTE_STREAMS
        tracks.tick = float(streams[0].time_base)
        zero = (streams[0].start_time or 0) * tracks.tick
        if options.video:
            tracks.frame_seconds = 1 / float(streams[0].average_rate or _UNKNOWN_RATE)
        if seek:
            tracks.sought = True
            with contextlib.suppress(av.error.FFmpegError):  # then it starts at the beginning
                container.seek(int(max(start + zero - _PREROLL, 0) * av.time_base))
        try:
            for item in decode_packets(container, streams, tracks.skipped):
                _add(tracks, item, zero)
                if tracks.full(options):
                    break
        except av.error.FFmpegError as error:
            tracks.damage = media_file.message_of(error)
        except DamageError as error:
            tracks.damage = str(error)
        _finish_tracks(tracks)
        if not tracks.damage and not tracks.full(options):
            tracks.damage = _cut_off(source, container, len(streams), tracks, zero, end)
        media_file.raise_unreachable(source)
        if source.error:
            tracks.damage = f"it can't be read to its end ({source.error.strerror})"
    tracks.sound.check_clock()
    return tracks


def _finish_tracks(tracks: _Tracks) -> None:
    tracks.frames.finish()
    try:
        tracks.sound.flush()
    except DamageError as error:
        tracks.damage = tracks.damage or str(error)


def _cut_off(
    source: SourceFile, container: Any, streams: int, tracks: _Tracks, zero: float, end: float
) -> str:
    """Describes a file that ends before its stated length, usually an interrupted download, or "".

    This concerns Matroska and WebM: other formats can't be opened when truncated, or state no
    length. It is checked only if all streams were decoded, as a single stream may be shorter. A
    complete file (`matroska.is_whole`) may state the length of its subtitles or of a still picture.
    The stated length counts from time zero of the container, and tracks from `zero` on that clock.
    """
    all_streams = len(container.streams.video) + len(container.streams.audio)
    if "matroska" not in container.format.name or streams != all_streams or not container.duration:
        return ""
    stated = min(container.duration / av.time_base - zero, end)
    reached = max(tracks.frames.until, tracks.sound.until)
    lacking = stated - reached
    if lacking <= max(_ENDS_EARLY_SECONDS, _ENDS_EARLY_FRACTION * stated) or matroska.is_whole(
        source
    ):
        return ""
    return f"it ends at {reached:.1f} s of {stated:.1f}"


def _add(tracks: _Tracks, item: av.VideoFrame | av.AudioFrame | av.Packet, zero: float) -> None:
    """Adds a frame, or an empty packet, to its track."""
    if isinstance(item, av.Packet):
        if item.stream.type == "video" and item.pts is not None:
            seconds = (item.duration or 0) * tracks.tick or tracks.frame_seconds
            tracks.frames.repeat(item.pts * tracks.tick - zero, seconds)
        return
    time = None if item.time is None else item.time - zero
    if isinstance(item, av.AudioFrame):
        follows = tracks.byte_stream and not (tracks.sought and tracks.sound.empty)
        tracks.sound.add(item, None if follows else time)
        return
    if item.is_corrupt:
        raise DamageError(f"a frame at {time or 0:.1f} s is damaged")
    tracks.frames.add(item, time, item.duration * tracks.tick or tracks.frame_seconds)


def _finish(path: str, options: MediaOptions, start: float, tracks: _Tracks) -> Media:
    """Checks the tracks, and cuts or pads the sound to the length of the frames."""
    for kind, wanted, empty in (
        ("video", options.video, not tracks.frames.frames),
        ("audio", options.audio, tracks.sound.empty),
    ):
        if wanted and empty:
            raise _nothing_decoded(path, kind, start, tracks)
    if tracks.damage and not options.keep_damaged:
        raise MediaError(path, "damaged", f"it is damaged ({tracks.damage})")
    frames = tracks.frames.frames
    if tracks.damage and options.audio:
        frames = frames[: math.ceil((tracks.sound.until - start) * options.frame_rate)]
    seconds = len(frames) / options.frame_rate
    waveform = tracks.sound.finish(seconds if options.video else math.inf)
    if not options.video:
        seconds = len(waveform) / options.sample_rate
    if seconds < options.min_seconds:
        raise MediaError(path, "too short", f"it is {seconds:.2f} s long from {start:g} s on")
    return Media(tuple(frames), waveform, start, start + seconds)


def _nothing_decoded(path: str, kind: str, start: float, tracks: _Tracks) -> MediaError:
    damage = tracks.damage or tracks.skipped.get(kind, "")
    if damage:
        return MediaError(path, "damaged", f"its {kind} can't be decoded ({damage})")
    reason: Reason = "no video" if kind == "video" else "no audio"
    return MediaError(path, reason, f"its {kind} stream is empty from {start:g} s on")
