"""One file of video and sound, decoded into what a record holds: JPEG frames and a waveform.

Any container and codec that ffmpeg reads, through PyAV. A file is streamed: frames are sampled,
made small and compressed as they are decoded, so memory grows with the clip that comes out and
not with the file. Decoders run in one thread, in the field's usual way of one process a core, and
their log is silenced by the level and not by a Python callback, which deadlocks with decoder
threads.

Time zero is where the file's video begins (its audio, where the video isn't asked for). Audio is
placed by its time stamps on the same clock, with silence where it has none, and is as long as the
frames. Rotation that the file asks for is applied; non-square pixels are taken as square.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, Literal

import av
import numpy as np

from data_pipelines.damage import DamageError
from data_pipelines.frame_track import FrameTrack
from data_pipelines.sound_track import SoundTrack
from xkd_jax.errors import UserError, may_pass

Reason = Literal["missing", "unreadable", "no video", "no audio", "too short", "damaged"]
# Streams of these formats that are pictures on a sleeve, not video.
_PICTURE = av.stream.Disposition.attached_pic
_QUIET = -8  # AV_LOG_QUIET
# A seek aims this many seconds early, for streams that are interleaved coarsely.
_PREROLL = 0.5
# Frames a second of a file that doesn't say.
_UNKNOWN_RATE = 25
# A file may end this much before the length that it states, the larger of the two.
_ENDS_EARLY_SECONDS = 1.0
_ENDS_EARLY_SHARE = 0.1
_BLOCK = 1 << 20  # bytes of a plain read


class MediaError(UserError):
    """A file that gives no record, and why."""

    def __init__(self, path: str, reason: str, detail: str):
        super().__init__(f"{path} is left out: {detail}.")
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class MediaOptions:
    """How files are decoded.

    Attributes:
      video: whether frames are wanted; a file without video is an error then.
      audio: whether sound is wanted; a file without audio is an error then.
      frame_rate: frames a second.
      short_side: of the frames, in pixels; even.
      jpeg_quality: 1 to 100.
      sample_rate: in Hz.
      min_seconds: a shorter file is an error.
      keep_damaged: whether a damaged file gives what comes before the damage.
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
            raise UserError(
                f"A short side of {self.short_side} pixels is asked for: give an even one."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Media:
    """A decoded file, or a stretch of it.

    Attributes:
      frames: JPEG bytes of each frame; empty where video wasn't asked for.
      waveform: float32 [samples], mono (the mean of the channels), full scale at 1.
      start: where it begins in the file, in seconds.
      end: where it ends.
    """

    frames: tuple[bytes, ...]
    waveform: np.ndarray
    start: float
    end: float


def decode(path: str, options: MediaOptions, start: float = 0.0, end: float = math.inf) -> Media:
    """Decodes the stretch of a file from `start` to `end` seconds.

    Raises:
      MediaError: the file can't be read, lacks a stream that is asked for, is damaged or too short.
      OSError: its file system doesn't answer.
    """
    try:
        if os.path.getsize(path) == 0:
            raise MediaError(path, "unreadable", "it is empty")
    except OSError as error:
        if may_pass(error):
            raise
        raise MediaError(path, "missing", f"it can't be opened ({error.strerror})") from None
    tracks = _decode(path, options, start, end, seek=start > 0)
    if start > 0 and options.video and tracks.frames.began > start:
        # Without an index a seek is a guess, and this one went too far.
        tracks = _decode(path, options, start, end, seek=False)
    return _finish(path, options, start, tracks)


@dataclasses.dataclass
class _Tracks:
    """What a file has given so far, and what went wrong."""

    frames: FrameTrack
    sound: SoundTrack
    tick: float = 0.0
    frame_seconds: float = 0.0
    damage: str = ""
    # {video or audio: why packets before its first frame were passed over}
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def full(self, options: MediaOptions) -> bool:
        return (self.frames.full or not options.video) and (self.sound.full or not options.audio)


def _decode(path: str, options: MediaOptions, start: float, end: float, seek: bool) -> _Tracks:
    tracks = _Tracks(
        FrameTrack(options.frame_rate, options.short_side, options.jpeg_quality, start, end),
        SoundTrack(options.sample_rate, start, end),
    )
    with _open(path) as container:
        streams = _choose_streams(container, path, options)
        tracks.tick = float(streams[0].time_base)
        zero = (streams[0].start_time or 0) * tracks.tick
        if options.video:
            tracks.frame_seconds = 1 / float(streams[0].average_rate or _UNKNOWN_RATE)
        if seek:
            container.seek(int(max(start + zero - _PREROLL, 0) * av.time_base))
        try:
            for frame in _decoded_frames(container, streams, tracks):
                _add(tracks, frame, zero)
                if tracks.full(options):
                    break
        except av.error.FFmpegError as error:
            tracks.damage = str(error.strerror)
        except DamageError as error:
            tracks.damage = str(error)
        if not tracks.damage and not tracks.full(options):
            tracks.damage = _cut_off(container, len(streams), tracks, zero, end)
    tracks.frames.finish()
    try:
        tracks.sound.flush()
    except DamageError as error:
        tracks.damage = tracks.damage or str(error)
    if tracks.damage:
        _check_storage(path)
    return tracks


def _check_storage(path: str) -> None:
    """Reads a file that ffmpeg finds at fault, which is how it tells of what it can't read too.

    Raises:
      OSError: its file system doesn't answer.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        if may_pass(error):
            raise


def _cut_off(container: Any, streams: int, tracks: _Tracks, zero: float, end: float) -> str:
    """Says where a file ends before the length that it states, an interrupted download mostly.

    That is Matroska's and WebM's: others are of no use when they are cut off, or state no length
    of their own. Asked of files all of whose streams were decoded, as one may be shorter. The
    length counts from the container's own zero, and the tracks from `zero` on its clock.
    """
    all_streams = len(container.streams.video) + len(container.streams.audio)
    if "matroska" not in container.format.name or streams != all_streams or not container.duration:
        return ""
    stated = min(container.duration / av.time_base - zero, end)
    reached = max(tracks.frames.until, tracks.sound.until)
    lacking = stated - reached
    if lacking <= max(_ENDS_EARLY_SECONDS, _ENDS_EARLY_SHARE * stated):
        return ""
    return f"it ends at {reached:.1f} s of {stated:.1f}"


def _open(path: str) -> Any:
    av.logging.set_libav_level(_QUIET)
    fault = "it is a text"
    try:
        container = _open_any(path)
        if container.format.name != "tty":  # which draws any text as video
            return container
        container.close()
    except av.error.FFmpegError as error:
        _check_storage(path)
        fault = f"it is no video or sound that ffmpeg reads ({error.strerror})"
    raise MediaError(path, "unreadable", fault)


def _open_any(path: str) -> Any:
    try:
        return av.open(path)
    except UnicodeDecodeError:  # a title that is not UTF-8, before PyAV 19
        ignoring: dict[str, Any] = {"metadata_errors": "replace"}
        return av.open(path, **ignoring)


def _choose_streams(container: Any, path: str, options: MediaOptions) -> list[Any]:
    """Returns ffmpeg's choice of a video and an audio stream, as far as they are asked for."""
    streams = []
    for kind, wanted in (("video", options.video), ("audio", options.audio)):
        if not wanted:
            continue
        stream = container.streams.best(kind)
        if stream is None or stream.disposition & _PICTURE:
            reason: Reason = "no video" if kind == "video" else "no audio"
            raise MediaError(path, reason, f"it has no {kind} stream")
        stream.codec_context.thread_count = 1
        streams.append(stream)
    return streams


def _decoded_frames(container: Any, streams: list[Any], tracks: _Tracks) -> Iterator[Any]:
    """Yields the frames of the streams as they come.

    What can't be decoded before a stream's first frame is passed over, as players do: streams that
    were cut out of longer ones often begin so.
    """
    for packet in container.demux(streams):
        kind = packet.stream.type
        track = tracks.frames if kind == "video" else tracks.sound
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            if not track.empty:
                raise
            tracks.skipped[kind] = str(error.strerror)
            continue
        yield from frames


def _add(tracks: _Tracks, frame: Any, zero: float) -> None:
    time = None if frame.time is None else frame.time - zero
    if isinstance(frame, av.AudioFrame):
        tracks.sound.add(frame, time)
        return
    if frame.is_corrupt:
        raise DamageError(f"a frame at {time or 0:.1f} s is damaged")
    tracks.frames.add(frame, time, frame.duration * tracks.tick or tracks.frame_seconds)


def _finish(path: str, options: MediaOptions, start: float, tracks: _Tracks) -> Media:
    """Checks what came, and makes the sound as long as the frames."""
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
