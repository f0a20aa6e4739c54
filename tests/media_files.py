"""Small files of video and sound for tests, with known content."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np


def grey_frames(levels: Iterable[int], width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Returns uint8 [height, width, 3] frames of one grey each."""
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
) -> str:
    """Writes a file and returns its path.

    Args:
      path: the suffix says which container.
      frames: uint8 [height, width, 3] each.
      frame_rate: frames a second.
      times: of each frame, in seconds, where they are not spaced evenly.
      sound: float32 [channels, samples].
      sample_rate: of the sound.
      sound_start: time of its first sample.
      codec: of the video.
      sound_codec: of the sound.
    """
    with av.open(str(path), "w") as container:
        video: Any = None
        audio: Any = None
        if frames is not None:
            video = container.add_stream(codec, rate=frame_rate)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj444p"}.get(codec, "yuv420p")
            video.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, frame_rate)
            video.bit_rate = 4_000_000
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
            audio = container.add_stream(sound_codec, rate=sample_rate, layout=layout)
        for i, pixels in enumerate(frames or ()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(times[i] * 1000) if times else i
            frame.time_base = video.codec_context.time_base
            container.mux(video.encode(frame))
        if video is not None:
            container.mux(video.encode())
        if audio is not None:
            _write_sound(container, audio, sound, sample_rate, sound_start)
    return str(path)


def _write_sound(container, stream, sound, sample_rate: int, start: float) -> None:
    resampler = av.AudioResampler(
        format=stream.codec_context.format, layout=stream.layout, rate=sample_rate,
        frame_size=stream.codec_context.frame_size or 1024,
    )  # fmt: skip
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(sound), format="fltp", layout=stream.layout.name
    )
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = round(start * sample_rate)
    for piece in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())
