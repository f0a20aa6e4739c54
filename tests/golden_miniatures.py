"""Small golden files in the authors' layout, computed by Pillow and NumPy."""

from __future__ import annotations

import bicubic
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from data_pipelines.format.log_mel import log_mel

Arrays = dict[str, np.ndarray]


def smooth(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Returns a smooth random frame."""
    few = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return few.resize((width, height), Image.Resampling.BICUBIC)


def _hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, int) + int(turns * 255)) % 256
    hue = Image.fromarray(turned.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _blur(image: np.ndarray, along: float, down: float) -> np.ndarray:
    radius = len(image) // 20
    taps = np.arange(-radius, radius + 1)
    pad = ((radius, radius), (radius, radius), (0, 0))
    result = np.pad(image.astype(float), pad, mode="reflect")
    for axis, sigma in enumerate((down, along)):
        kernel = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
        result = np.apply_along_axis(np.convolve, axis, result, kernel / kernel.sum(), mode="valid")
    return result.astype(np.uint8)


def _video_case(rng, height: int, width: int, size: int, grey: bool, sigma) -> Arrays:
    frames = [smooth(rng, height, width) for _ in range(2)]
    high, wide = int(rng.integers(8, height)), int(rng.integers(8, width))
    top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    factors = np.r_[rng.uniform(0.6, 1.4, 3), rng.uniform(-0.2, 0.2)]
    order, flip = rng.permutation(4), bool(rng.integers(2))
    crop = (left, top, left + wide, top + high)
    resized = [f.crop(crop).resize((size, size), Image.Resampling.BILINEAR) for f in frames]
    stages = {"resized": resized}
    changed = [ImageOps.mirror(image) if flip else image for image in resized]
    for operation in order:
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factor = float(factors[operation])
        changed = [
            _hue(image, factor) if operation == 3 else kinds[operation](image).enhance(factor)
            for image in changed
        ]
    stages["jittered"] = changed
    if grey:
        changed = stages["grey"] = [image.convert("L").convert("RGB") for image in changed]
    if any(sigma):
        stages["blurred"] = [_blur(np.asarray(image), *sigma) for image in changed]
    return {
        "frames": np.stack([np.asarray(frame) for frame in frames]),
        "box": np.array([top, left, high, wide]),
        "flip": np.array(flip),
        "factors": factors,
        "order": order,
        "size": np.array(size),
        "is_grey": np.array(grey),
        "blur_sigma_xy": np.array(sigma, float),
        **{name: np.stack([np.asarray(image) for image in made]) for name, made in stages.items()},
    }


def video_augment(seed: int) -> Arrays:
    """Three clips: without blur, blurred along columns, and gray with blur along both axes."""
    rng = np.random.default_rng(seed)
    cases = [
        (30, 41, 24, False, (0.0, 0.0)),
        (28, 28, 40, False, (0.1, 2.0)),
        (45, 33, 44, True, (1.3, 1.3)),
    ]
    return {
        f"case{i}/{key}": value
        for i, case in enumerate(cases)
        for key, value in _video_case(rng, *case).items()
    }


def spectrogram_crop(seed: int) -> Arrays:
    """Boxes on a canvas 1.5 times as long as the spectrogram."""
    rng = np.random.default_rng(seed)
    mels, columns = 12, 20
    spectrogram = rng.normal(size=(mels, columns)).astype(np.float32)
    canvas = np.zeros((mels, 30))
    canvas[:, 5:25] = spectrogram
    boxes, crops = [], []
    for _ in range(4):
        height, width = int(rng.integers(1, mels + 1)), int(rng.integers(1, 31))
        top, left = int(rng.integers(mels - height + 1)), int(rng.integers(30 - width + 1))
        boxes.append((top, left, height, width))
        box = canvas[top : top + height, left : left + width]
        crops.append(bicubic.resize_image(box, (mels, columns)))
    crops = np.array(crops, np.float32)
    return {"spectrogram": spectrogram, "boxes": np.array(boxes), "crops": crops}


def spec_augment(seed: int) -> Arrays:
    """Two time warps, three frequency masks and one time mask."""
    rng = np.random.default_rng(seed)
    spectrogram = rng.normal(-0.5, 1, (16, 50)).astype(np.float32)
    moves = rng.integers(1, 50, (2, 2))
    masked = spectrogram.astype(float)
    masks = {}
    for axis, (name, count) in enumerate((("mel_width_start", 3), ("time_width_start", 1))):
        width = rng.integers(0, 6, count)
        start = rng.integers(0, masked.shape[axis] - width + 1)
        mean = masked.mean()
        for n, first in zip(width, start, strict=True):
            masked.swapaxes(0, axis)[first : first + n] = mean
        masks[name] = np.stack([width, start], 1)
    return {
        "spectrogram": spectrogram,
        "warp_column_moved": moves,
        "warped": np.array([bicubic.warp(spectrogram, *move) for move in moves], np.float32),
        **masks,
        "masked": masked.astype(np.float32),
    }


def rand_augment(seed: int) -> Arrays:
    """Eight operations at magnitude 7 of 10 on two frames that are not square."""
    rng = np.random.default_rng(seed)
    height, width = 20, 27
    frames = [smooth(rng, height, width) for _ in range(2)]
    level = 0.7

    def affine(matrix):
        def change(image: Image.Image, sign: int) -> Image.Image:
            return image.transform(
                image.size, Image.Transform.AFFINE, matrix(sign), Image.Resampling.BILINEAR,
                fillcolor=(128,) * 3,
            )  # fmt: skip

        return change

    operations = {
        "AutoContrast": lambda image, sign: ImageOps.autocontrast(image),
        "Equalize": lambda image, sign: ImageOps.equalize(image),
        "SolarizeIncreasing": lambda image, sign: ImageOps.solarize(image, 256 - int(256 * level)),
        "ColorIncreasing": lambda image, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.63),
        "Rotate": lambda image, sign: image.rotate(
            sign * 21, Image.Resampling.BILINEAR, fillcolor=(128,) * 3
        ),
        "ShearY": affine(lambda sign: (1, 0, 0, sign * 0.21, 1, 0)),
        "TranslateXRel": affine(lambda sign: (1, 0, sign * 0.315 * width, 0, 1, 0)),
        "TranslateYRel": affine(lambda sign: (1, 0, 0, 0, 1, sign * 0.315 * height)),
    }
    made = {"frames": np.stack([np.asarray(frame) for frame in frames])}
    for name, change in operations.items():
        has_two = name not in ("AutoContrast", "Equalize", "SolarizeIncreasing")
        for side, sign in (("plus", 1), ("minus", -1))[: 1 + has_two]:
            made[f"{name}/{side}"] = np.stack([np.asarray(change(f, sign)) for f in frames])
    return made


def mixup_targets(seed: int) -> Arrays:
    """Three batches of five clips and four classes."""
    rng = np.random.default_rng(seed)
    fraction, labels, smoothing = rng.beta(0.6, 0.6, 3), rng.integers(0, 4, (3, 5)), 0.2
    smoothed = (1 - smoothing) * np.eye(4)[labels] + smoothing / 4
    weight = fraction[:, None, None]
    targets = weight * smoothed + (1 - weight) * smoothed[:, ::-1]
    return {
        "share": fraction,
        "labels": labels,
        "smoothing": np.array(smoothing),
        "classes": np.array(4),
        "targets": targets.astype(np.float32),
    }


def timm_box(fraction: float, row: int, column: int, height: int, width: int) -> tuple[float, ...]:
    """timm's rand_bbox: rows, columns, and the fraction outside of the clipped box."""
    high, wide = (int(side * np.sqrt(1 - fraction)) for side in (height, width))
    rows = np.clip([row - high // 2, row + high // 2], 0, height)
    columns = np.clip([column - wide // 2, column + wide // 2], 0, width)
    left = 1 - (rows[1] - rows[0]) * (columns[1] - columns[0]) / (height * width)
    return *rows, *columns, left


def cutmix_boxes(seed: int, height: int = 60, width: int = 90) -> Arrays:
    """Boxes of frames that are not square."""
    rng = np.random.default_rng(seed)
    rows = []
    for fraction in rng.beta(0.5, 0.5, 50):
        row, column = int(rng.integers(height)), int(rng.integers(width))
        rows.append((fraction, *timm_box(fraction, row, column, height, width)))
    return {"rows": np.array(rows)}


def schedules(seed: int) -> Arrays:
    """The paper's schedules over 40 epochs."""
    rng = np.random.default_rng(seed)
    records = int(rng.integers(5_000, 20_000))
    per_epoch, epochs = records // 256, 40
    steps, warmup = per_epoch * epochs, 30 * per_epoch
    at = np.unique(np.r_[0, 1, warmup - 1, warmup, steps - 1, rng.integers(0, steps, 60)])
    half = (1 + np.cos(np.pi * (at - warmup) / (steps - warmup))) / 2
    rising = 1e-4 * at / (warmup - 1)
    return {
        "records": np.array(records),
        "steps_per_epoch": np.array(per_epoch),
        "steps": np.array(steps),
        "at": at,
        "learning_rate": np.where(at < warmup, rising, 1e-4 * half),
        "ema": 1 - 0.003 * (1 + np.cos(np.pi * at / steps)) / 2,
        "mas_video_temperature": np.r_[np.linspace(0.09, 0.11, 30), [0.11] * 10],
        "mas_audio_temperature": np.r_[np.linspace(0.04, 0.06, 30), [0.06] * 10],
    }


def sounds(seed: int) -> Arrays:
    """A waveform of 2 s and its spectrograms."""
    waveform = np.random.default_rng(seed).integers(-9000, 9000, 32000).astype(np.int16)
    normalized = lambda samples: (log_mel(samples / 32768) + 5.3688107) / 4.410007  # noqa: E731
    return {
        "noise/waveform": waveform,
        "noise/log_mel": normalized(waveform),
        "noise/log_mel_local": normalized(waveform[8000:24000]),
    }


FILES = {
    make.__name__: make
    for make in (
        video_augment, spectrogram_crop, spec_augment, rand_augment, mixup_targets, cutmix_boxes,
        schedules, sounds,
    )
}  # fmt: skip


def layer_decay(depth: int, decay: float, weight_decay: float) -> dict[str, list[float]]:
    """Learning rate factor and weight decay of each tensor, under the authors' names."""
    found = {name: [decay ** (depth + 1), 0.0] for name in ("cls_token", "pos_embed")}
    found["patch_embed.proj.weight"] = [decay ** (depth + 1), weight_decay]
    found["patch_embed.proj.bias"] = [decay ** (depth + 1), 0.0]
    for i in range(depth):
        matrices = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
        others = (
            "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.proj.bias",
            "mlp.fc1.bias", "mlp.fc2.bias",
        )  # fmt: skip
        for name in (*matrices, *others):
            found[f"blocks.{i}.{name}"] = [decay ** (depth - i), weight_decay * (name in matrices)]
    found |= {
        "norm.weight": [1.0, 0.0],
        "norm.bias": [1.0, 0.0],
        "head.classifier.bias": [1.0, 0.0],
    }
    found["head.classifier.weight"] = [1.0, weight_decay]
    return found
