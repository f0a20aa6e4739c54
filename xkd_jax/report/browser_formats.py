"""Images, videos and sounds as parts of a page, in formats that browsers play."""

from __future__ import annotations

import fractions
import io
from typing import Any

import av
import cv2
import numpy as np

from xkd_jax.report.elements import data_address

# Heights in pixels below which pictures are enlarged, and to which larger ones are reduced.
_LEAST, _MOST = 112, 160
_OPUS_RATE = 48000


def png(image: np.ndarray) -> str:
    """Returns the address of an image, uint8 [height, width, 3], as PNG."""
    encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))[1]
    return data_address("image/png", encoded.tobytes())


def jpeg(image: np.ndarray) -> str:
    """Returns the address of an image, uint8 [height, width, 3], as JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 80]
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), quality)[1]
    return data_address("image/jpeg", encoded.tobytes())


def scaled(images: np.ndarray) -> np.ndarray:
    """Returns images at a height for viewing.

    Those below 112 pixels are enlarged by a whole factor, which keeps edges sharp; those above 160
    are reduced to 160.

    Args:
      images: uint8 [time, height, width, 3].

    Returns:
      uint8 [time, even height, even width, 3].
    """
    height, width = images.shape[1:3]
    if height < _LEAST:
        factor = -(-_LEAST // height)
        images = images.repeat(factor, 1).repeat(factor, 2)
    elif height > _MOST:
        size = (round(width * _MOST / height), _MOST)
        images = np.stack([cv2.resize(i, size, interpolation=cv2.INTER_AREA) for i in images])
    return images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]


def webm_video(
    frames: np.ndarray, frame_rate: float, sound: np.ndarray | None = None, sample_rate: int = 0
) -> str:
    """Returns the address of a video as WebM (VP9 and Opus).

    Args:
      frames: uint8 [time, even height, even width, 3].
      frame_rate: in frames per second.
      sound: float [samples], full scale at 1; None: silent.
      sample_rate: of the sound, in Hz.
    """
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        rate = fractions.Fraction(frame_rate).limit_denominator(1000)
        video: Any = container.add_stream("libvpx-vp9", rate=rate)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"crf": "33", "b": "0", "cpu-used": "8", "deadline": "realtime"}
        audio = None if sound is None else _opus(container)
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            _write_sound(container, audio, sound, sample_rate)
    return data_address("video/webm", file.getvalue())


def sound(samples: np.ndarray, sample_rate: int) -> str:
    """Returns the address of a sound, float [samples] with full scale at 1, as WebM (Opus)."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as container:
        _write_sound(container, _opus(container), samples, sample_rate)
    return data_address("audio/webm", file.getvalue())


def _opus(container: Any) -> Any:
    stream = container.add_stream("libopus", rate=_OPUS_RATE)
    stream.layout = "mono"
    stream.bit_rate = 32000
    return stream


def _write_sound(container: Any, stream: Any, samples: np.ndarray, sample_rate: int) -> None:
    pcm = np.rint(32767 * np.clip(samples, -1, 1)).astype(np.int16)[None]
    frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
    frame.sample_rate = sample_rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=_OPUS_RATE)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        container.mux(stream.encode(part))
    container.mux(stream.encode())
