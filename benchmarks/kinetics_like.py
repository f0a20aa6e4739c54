"""Generates videos with the size of those in Kinetics, for other benchmarks."""

from __future__ import annotations

import pathlib
from fractions import Fraction

import av
import cv2
import numpy as np

WIDTH, HEIGHT, FRAME_RATE, SECONDS, SAMPLE_RATE = 340, 256, 30, 10, 44100


def make(folder: str, count: int) -> list[str]:
    """Writes `count` files of 10 s, 340x256 at 30 frames per second, H.264 and AAC.

    Textures of every scale drift over each other, with a little noise: some 600 kbit a second.
    """
    paths = []
    for i in range(count):
        path = pathlib.Path(folder) / f"class{i % 2}" / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(str(path), np.random.default_rng(i))
        paths.append(str(path))
    return paths


def _write(path: str, rng: np.random.Generator) -> None:
    textures = [_texture(rng) for _ in range(3)]
    speeds = rng.uniform(-60, 60, (3, 2))
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 600_000
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        for i in range(SECONDS * FRAME_RATE):
            shifts = (speeds * i / FRAME_RATE).astype(int)
            layers = [np.roll(t, s, (0, 1)) for t, s in zip(textures, shifts, strict=True)]
            pixels = np.mean(layers, axis=0) + rng.normal(0, 2, (HEIGHT, WIDTH, 1))
            frame = av.VideoFrame.from_ndarray(
                np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24"
            )
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        _write_sound(container, audio, rng)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Returns noise, float [height, width, 3], at octaves from the whole picture to 4 pixels."""
    total = np.zeros((HEIGHT, WIDTH, 3))
    for octave in range(7):
        size = 2**octave
        coarse = rng.normal(0, 60 / (1 + 0.5 * octave), (size + 1, size + 1, 3))
        total += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
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
