"""An on-the-fly loader for comparison: decodes and augments each clip from its video file.

As the released loader of XKD does it: PyAV for a random 4 s of a file, PIL for every frame of
every view, librosa for the spectrogram, all on the host.
"""

from __future__ import annotations

import av
import librosa
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from data_pipelines.loader_config import VideoAugment
from xkd_jax.config.pretraining import Config


def load_clip(path: str, config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns the normalized global and local views of a random clip of a file."""
    video, audio = config.video, config.audio
    frames, waveform = _decode(path, config, rng)
    start = int(rng.integers(len(frames) - video.local_frames, endpoint=True))
    local = frames[start : start + video.local_frames]
    log_mel = _log_mel(waveform * rng.uniform(0.9, 1.1), config)
    first = rng.integers(audio.columns - audio.local_columns, endpoint=True)
    return {
        "video_global": _views(frames, video.size, video.global_augment, config, rng),
        "video_local": _views(local, video.local_size, video.local_augment, config, rng),
        "audio_global": log_mel,
        "audio_local": log_mel[:, first : first + audio.local_columns],
    }


def _decode(
    path: str, config: Config, rng: np.random.Generator
) -> tuple[list[Image.Image], np.ndarray]:
    seconds = config.clip_seconds
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        start = rng.uniform(0, max((container.duration or 0) / av.time_base - seconds, 0))
        container.seek(int(start * av.time_base))
        times, decoded = [], []
        for frame in container.decode(stream):
            if frame.time >= start:
                times.append(frame.time)
                decoded.append(frame)
            if frame.time >= start + seconds:
                break
        wanted = start + np.arange(config.video.frames) / config.video.frame_rate
        picked = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
        frames = [decoded[i].to_image() for i in picked]
        container.seek(int(start * av.time_base))
        sound = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=config.audio.sample_rate)
        pieces = []
        for heard in container.decode(sound):
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(heard)]
            if (heard.time or 0) >= start + seconds:
                break
    samples = int(seconds * config.audio.sample_rate)
    waveform = np.concatenate(pieces)[:samples].astype(np.float32) / 32768
    return frames, np.pad(waveform, (0, samples - len(waveform)))


def _views(
    frames: list[Image.Image],
    size: int,
    augment: VideoAugment,
    config: Config,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns float32 [frames, size, size, 3]: one random choice for all frames."""
    width, height = frames[0].size
    scale = np.sqrt(rng.uniform(*augment.area))
    box_width, box_height = int(width * scale), int(height * scale)
    left = int(rng.integers(width - box_width + 1))
    top = int(rng.integers(height - box_height + 1))
    box = (left, top, left + box_width, top + box_height)
    flip, blur = rng.random() < augment.flip, rng.random() < augment.blur
    factors = rng.uniform(1 - augment.brightness, 1 + augment.brightness, 3)
    hue = round(rng.uniform(-augment.hue, augment.hue) * 255)
    views = []
    for frame in frames:
        view = frame.resize((size, size), Image.Resampling.BILINEAR, box=box)
        if flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        view = ImageEnhance.Brightness(view).enhance(factors[0])
        view = ImageEnhance.Contrast(view).enhance(factors[1])
        view = ImageEnhance.Color(view).enhance(factors[2])
        h, s, v = view.convert("HSV").split()
        h = h.point([(i + hue) % 256 for i in range(256)])
        view = Image.merge("HSV", (h, s, v)).convert("RGB")
        if blur:
            view = view.filter(ImageFilter.GaussianBlur(1.0))
        views.append(np.asarray(view, np.float32) / 255)
    return (np.stack(views) - config.video.mean) / config.video.std


def _log_mel(waveform: np.ndarray, config: Config) -> np.ndarray:
    audio = config.audio
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=audio.sample_rate, n_fft=audio.fft, hop_length=audio.hop,
        n_mels=audio.mels, pad_mode="reflect",
    )  # fmt: skip
    return (np.log(mel + 2.0**-23)[:, : audio.columns] - audio.mean) / audio.std
