"""Writes small files of video and sound with known content."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import simplejpeg


def gray_frames(levels: Iterable[int], width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Returns frames uint8 [height, width, 3], each of one gray level."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


def tone(seconds: float, rate: int, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    """Returns a sine of amplitude 0.5, float32 [channels, samples]."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def write(
    path,
    frames: list[np.ndarray] | None = None,
    frame_rate: int = 30,
    times: list[float] | None = None,
    sound: np.ndarray | None = None,
    sample_rate: int = 44100,
    sound_start: float = 0.0,
    codec: str = "mpeg4",
    sound_codec: str = "pcm_s16le",
    options: dict[str, str] | None = None,
) -> str:
    """Writes a file and returns its path.

    Args:
      path: its suffix determines the container.
      frames: uint8 [height, width, 3] each.
      frame_rate: frames per second.
      times: of each frame, in seconds; default: evenly spaced.
      sound: float32 [channels, samples].
      sample_rate: of the sound.
      sound_start: time of its first sample.
      codec: of the video.
      sound_codec: of the sound.
      options: of the video's encoder.
    """
    with av.open(str(path), "w") as container:
        video: Any = None
        audio: Any = None
        if frames is not None:
            video = container.add_stream(codec, rate=frame_rate, options=options or {})
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj444p"}.get(codec, "yuv420p")
            video.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, frame_rate)
            video.bit_rate = 4_000_000
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=sample_rate, layout=layout)
        for i, pixels in enumerate(frames or ()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(times[i] * 1000) if times else i
            frame.time_base = video.codec_context.time_base
            container.mux(video.encode(frame))
        if video is not None:
            container.mux(video.encode())
        if audio is not None:
            write_sound(container, audio, sound, sample_rate, sound_start)
    return str(path)


def add_tracks(
    container, pictures, frame_rate: int, sounds, sample_rate: int, sound_codec: str = "aac"
) -> None:
    """Writes several default tracks of each kind; video is MPEG-4.

    Args:
      container: of PyAV, open for writing.
      pictures: the frames of each video track.
      frame_rate: frames per second.
      sounds: float32 [channels, samples] of each sound track.
      sample_rate: in Hz.
      sound_codec: of the sound.
    """
    videos = [container.add_stream("mpeg4", rate=frame_rate) for _ in pictures]
    audios = [container.add_stream(sound_codec, rate=sample_rate, layout="mono") for _ in sounds]
    for stream, frames in zip(videos, pictures, strict=True):
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
    for stream in (*videos, *audios):
        stream.disposition = av.stream.Disposition.default
    for stream, frames in zip(videos, pictures, strict=True):
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for stream, sound in zip(audios, sounds, strict=True):
        write_sound(container, stream, sound, sample_rate, 0.0)


def levels(jpegs: Iterable[bytes]) -> list[float]:
    """Returns the mean of each image."""
    return [float(simplejpeg.decode_jpeg(jpeg).mean()) for jpeg in jpegs]


def set_display_matrix(path, matrix: Iterable[float]) -> None:
    """Replaces (a, b, c, d) of the upright display matrix of an MP4 file's first track."""
    content = pathlib.Path(path).read_bytes()
    upright, wanted = (
        b"".join(round(n * 65536).to_bytes(4, "big", signed=True) for n in (a, b, 0, c, d))
        for a, b, c, d in ((1, 0, 0, 1), matrix)
    )
    where = content.index(upright, content.index(b"tkhd"))
    pathlib.Path(path).write_bytes(content[:where] + wanted + content[where + len(wanted) :])


def write_sound(container, stream, sound, sample_rate: int, start: float) -> None:
    resampler = av.AudioResampler(
        format=stream.codec_context.format, layout=stream.layout, rate=sample_rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )  # fmt: skip
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(sound.T).reshape(1, -1), format="flt", layout=stream.layout.name
    )
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = round(start * sample_rate)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())
