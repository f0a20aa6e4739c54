"""Comparison of views: augmented frames, log-mel spectrograms and their crops."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.format.log_mel import log_mel
from data_pipelines.loader_config import AudioAugment, AudioConfig, VideoConfig
from data_pipelines.read.audio_views import canvas_of_log_mel
from xkd_jax.augment.audio import crop
from xkd_jax.augment.video import augment_video
from xkd_jax.parity.comparison import Report, largest_error, mean_error, worst
from xkd_jax.parity.golden_file import Fields, GoldenFile

# Tolerances in levels of 255, mean and largest. The authors' values are integers, ours are not:
# Pillow rounds after each axis of a resize, truncates after each change of color and has 256 hues;
# later changes can amplify that. The authors' blur truncates.
_LEVELS = {
    "resized": (0.35, 1.01),
    "jittered": (2.5, 20.0),
    "grey": (0.35, 1.01),
    "blurred": (0.55, 1.01),
}
_CROPS = 1e-4
_LOG_MEL = 1e-3
_JITTER = ("brightness", "contrast", "saturation", "hue")
_LARGEST_SIZE = 1024  # of a view, in pixels
_LOCAL = slice(8000, 24000)  # samples of `log_mel_local`
_PLAIN = VideoConfig(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def video_augment(file: GoldenFile) -> Report:
    """Compares crop and resize, jitter, gray and blur of clips, each applied to the stage before.

    Raises:
      UserError: the file is damaged.
    """
    names = sorted({name.partition("/")[0] for name in file.content})
    means: dict[str, dict[str, float]] = {stage: {} for stage in _LEVELS}
    largest: dict[str, dict[str, float]] = {stage: {} for stage in _LEVELS}
    for name in names:
        for stage, found, expected in _stages(Fields(file, f"{name}/")):
            means[stage][name] = mean_error(found, expected)
            largest[stage][name] = largest_error(found, expected)
    comparisons = [
        worst(f"{stage}, {what}", allowed, errors[stage])
        for stage, limits in _LEVELS.items()
        for what, allowed, errors in zip(("mean", "max"), limits, (means, largest), strict=True)
        if errors[stage]
    ]
    return Report(f"video views, {len(names)} cases, in levels of 255", comparisons)


def _stages(fields: Fields) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Returns (stage, our frames, the authors' frames) of one case."""
    frames = fields.levels("frames", "frames", "height", "width", 3)
    height, width = fields.sizes["height"], fields.sizes["width"]
    top, left, high, wide = fields.whole("box", 4, low=0).tolist()
    if not (0 < high <= height - top and 0 < wide <= width - left):
        fields.refuse("its box is not within the frame")
    size = int(fields.whole("size", low=1, high=_LARGEST_SIZE))
    jitter = _jitter(fields)
    is_grey = fields.flag("is_grey")
    sigma = fields.real("blur_sigma_xy", 2, low=0, high=1000).astype(np.float32)
    stages = {
        name: fields.levels(name, "frames", size, size, 3) for name in ("resized", "jittered")
    }
    if is_grey:
        stages["grey"] = fields.levels("grey", "frames", size, size, 3)
    if sigma.any():
        stages["blurred"] = fields.levels("blurred", "frames", size, size, 3)
    fields.finish()

    draws: dict[str, dict[str, np.ndarray]] = {
        "resized": {},
        "jittered": jitter,
        "grey": {"grayscale": np.array(True)},
        "blurred": {"blur_sigma": sigma},
    }
    # as in the data pipeline, the box is at the origin of a canvas
    shown, box, found = np.zeros_like(frames), (high, wide), []
    shown[:, :high, :wide] = frames[:, top : top + high, left : left + wide]
    for stage, expected in stages.items():
        found.append((stage, _augmented(shown, box, size, draws[stage]), expected))
        shown, box = expected, (size, size)
    return found


def _jitter(fields: Fields) -> dict[str, np.ndarray]:
    """Returns the random numbers of flip and jitter, in the data pipeline's layout."""
    factors = fields.real("factors", 4, low=-100, high=100).astype(np.float64)
    order = fields.whole("order", 4)
    if sorted(order.tolist()) != [0, 1, 2, 3]:
        fields.refuse("its order is not a permutation of four operations")
    if (factors[:3] < 0).any() or abs(factors[3]) > 0.5:
        fields.refuse("its factors are not of brightness, contrast, saturation and hue")
    # Pillow's hue is a byte: torchvision shifts it by a multiple of 1/256.
    factors[3] = int(factors[3] * 255) / 256
    return {
        "flip": np.array(fields.flag("flip")),
        "order": order.astype(np.int32),
        **dict(zip(_JITTER, factors.astype(np.float32), strict=True)),
    }


def _augmented(
    frames: np.ndarray, box: tuple[int, int], size: int, draws: dict[str, np.ndarray]
) -> np.ndarray:
    view = {"frames": frames, "box": np.array(box, np.float32), **draws}
    batch = {name: jnp.asarray(value)[None] for name, value in view.items()}
    return np.asarray(_augment_plainly(batch, size))[0]


@functools.partial(jax.jit, static_argnames="size")
def _augment_plainly(batch: dict[str, jax.Array], size: int) -> jax.Array:
    return augment_video(_PLAIN, batch, size)


def spectrogram_crop(file: GoldenFile) -> Report:
    """Compares random resized crops of a spectrogram.

    Raises:
      UserError: the file is damaged.
    """
    fields = Fields(file)
    spectrogram = fields.real("spectrogram", "mels", "columns").astype(np.float32)
    boxes = fields.whole("boxes", "boxes", 4, low=0)
    expected = fields.real("crops", "boxes", "mels", "columns")
    fields.finish()
    augment = AudioAugment()
    mels, columns = spectrogram.shape
    canvas = canvas_of_log_mel(mels, columns, augment)
    start, extent = boxes[:, :2], boxes[:, 2:]
    if (extent < 1).any() or (start + extent > canvas).any():
        fields.refuse(f"a box is not within the canvas of {canvas[0]} x {canvas[1]}")
    repeated = jnp.repeat(spectrogram[None], len(boxes), 0)
    found = crop(repeated, jnp.asarray(boxes, jnp.int32), augment.canvas)
    errors = {
        f"box {i}": largest_error(*pair) for i, pair in enumerate(zip(found, expected, strict=True))
    }
    return Report(f"spectrogram crops, {len(boxes)} boxes", [worst("crops", _CROPS, errors)])


def log_mels(file: GoldenFile) -> Report:
    """Compares normalized log-mel spectrograms, of a waveform and of a part of it.

    Raises:
      UserError: the file is damaged.
    """
    audio = AudioConfig()
    parts: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "log_mel": lambda waveform: waveform,
        "log_mel_local": lambda waveform: waveform[_LOCAL],
    }
    names = sorted({name.partition("/")[0] for name in file.content})
    errors: dict[str, dict[str, float]] = {part: {} for part in parts}
    for name in names:
        fields = Fields(file, f"{name}/")
        waveform = fields.whole("waveform", "samples", low=-(2**15), high=2**15 - 1) / 2**15
        for part, cut in parts.items():
            samples = cut(waveform)
            expected = fields.real(part, "mels", 1 + len(samples) // audio.hop)
            ours = log_mel(samples, audio.sample_rate, audio.fft, audio.hop, len(expected))
            errors[part][name] = largest_error((ours - audio.mean) / audio.std, expected)
        fields.finish()
    comparisons = [worst(part, _LOG_MEL, found) for part, found in errors.items()]
    return Report(f"log-mel spectrograms of {len(names)} waveforms", comparisons)
