"""Generates synthetic videos with the size of those in Kinetics, for other benchmarks."""

from __future__ import annotations

import pathlib
from fractions import Fraction

import av
import cv2
import numpy as np

FRAME_RATE, SECONDS, SAMPLE_RATE = 30, 10, 44100


def make(
    folder: str, count: int, height: int = 256, width: int = 340, bit_rate: int = 600_000
) -> list[str]:
    """Writes `count` files of 10 s at 30 frames per second, H.264 and AAC; returns their paths.

    Textures of every scale drift over each other, with a little noise.

    Args:
      folder: for the files, in two folders of classes.
      count: number of files.
      height: of the frames, in pixels.
      width: of the frames, in pixels.
      bit_rate: of the video, in bits a second.
    """
    paths = []
    for i in range(count):
        path = pathlib.Path(folder) / f"class{i % 2}" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(str(path), np.random.default_rng(i), (height, width), bit_rate)
        paths.append(str(path))
    return paths


def _write(path: str, rng: np.random.Generator, size: tuple[int, int], bit_rate: int) -> None:
    textures = [_texture(rng, size) for _ in range(3)]
    speeds = rng.uniform(-60, 60, (3, 2))
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE)
        (video.height, video.width), video.pix_fmt = size, "yuv420p"
        video.bit_rate = bit_rate
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        for i in range(SECONDS * FRAME_RATE):
            shifts = (speeds * i / FRAME_RATE).astype(int)
            layers = [np.roll(t, s, (0, 1)) for t, s in zip(textures, shifts, strict=True)]
            pixels = np.mean(layers, axis=0) + rng.normal(0, 2, (*size, 1))
            frame = av.VideoFrame.from_ndarray(
                np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24"
            )
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        _write_sound(container, audio, rng)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Returns noise, float [height, width, 3], at octaves from the whole picture to 4 pixels."""
    total = np.zeros((*size, 3))
    for octave in range(7):
        cells = 2**octave
        coarse = rng.normal(0, 60 / (1 + 0.5 * octave), (cells + 1, cells + 1, 3))
        total += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return total + 128


def _write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, rng: np.random.Generator
) -> None:
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    wave = 0.2 * np.sin(2 * np.pi * rng.uniform(100, 1000) * time) + rng.normal(0, 0.05, time.size)
    sound = np.tile(wave.astype(np.float32), (2, 1))
    for start in range(0, time.size, 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound[:, start : start + 1024]), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
