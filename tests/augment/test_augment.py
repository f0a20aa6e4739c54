"""Augmentations compared with PIL or an explicit NumPy computation.

Tolerances are in gray levels of 0..255. PIL rounds to whole levels after every step (and between
the two directions of a resize), and we don't: that is 1 level a step.
"""

import colorsys
import dataclasses
import pathlib
import random
import re

import bicubic
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_pipelines.format import kaldi, record_schema
from data_pipelines.format import log_mel as log_mel_lib
from data_pipelines.loader_config import AudioAugment, AudioConfig, VideoConfig
from data_pipelines.read import audio_views, views
from xkd_jax.augment import audio as audio_lib
from xkd_jax.augment import augment
from xkd_jax.augment.audio import augment_audio
from xkd_jax.augment.video import augment_video
from xkd_jax.config.pretraining import Config

SIZE = 24
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
SHARED = pathlib.Path(__file__).parents[3] / "shared"


def noise_frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)


def smooth_frame() -> np.ndarray:
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8))
    return np.asarray(small.resize((47, 61), Image.Resampling.BICUBIC))


def real_frame() -> np.ndarray:
    av = pytest.importorskip("av")
    path = SHARED / "videos" / "pancake.mkv"
    if not path.exists():
        pytest.skip("needs the shared videos")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).to_image()
    return np.asarray(frame.resize((171, 128)))


@pytest.fixture(params=[noise_frame, smooth_frame, real_frame], ids=lambda make: make.__name__)
def frame(request) -> np.ndarray:
    return request.param()


def change(frames: np.ndarray, size: int = 0, **draws) -> np.ndarray:
    """Augments one sample [T, H, W, 3] with given random numbers, to [T, size, size, 3]."""
    box = np.array(draws.pop("box", frames.shape[1:3]), np.float32)
    side = max(frames.shape[1:3])
    canvas = np.full((len(frames), side, side, 3), 77, np.uint8)  # 77 must have no effect
    canvas[:, : frames.shape[1], : frames.shape[2]] = frames
    view = {"frames": canvas, "box": box, **{k: np.asarray(v) for k, v in draws.items()}}
    plain = VideoConfig(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    batched = {key: jnp.asarray(value)[None] for key, value in view.items()}
    return np.asarray(augment_video(plain, batched, size or SIZE))[0]


def square(frame: np.ndarray, size: int = SIZE) -> np.ndarray:
    return frame[None, :size, :size]


def jitter(frames: np.ndarray, **draws) -> np.ndarray:
    draws = {k: np.float32(v) if k != "order" else v for k, v in draws.items()}
    return change(frames, order=draws.pop("order", np.arange(4, dtype=np.int32)), **draws)


@pytest.mark.parametrize("box", [(61, 47), (30, 25), (47, 40), (11, 9), (24, 24), (1, 1)])
def test_resize_equals_pil(frame, box):
    cut = frame[: box[0], : box[1]]
    expected = Image.fromarray(cut).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    found = change(frame[None], box=box)[0]
    assert np.abs(found - np.asarray(expected, np.float32)).max() <= 1.01


def test_flip_mirrors_the_resized_box(frame):
    straight = change(frame[None], box=(50, 31), flip=np.bool_(False))
    flipped = change(frame[None], box=(50, 31), flip=np.bool_(True))
    np.testing.assert_allclose(flipped, straight[:, :, ::-1], atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_transposed_canvas_gives_same_view(frame, flip):
    frames, box = np.stack([frame, 255 - frame]), (50, 31)
    straight = change(frames, box=box, flip=np.bool_(flip), transposed=np.bool_(False))
    turned = change(
        frames.swapaxes(1, 2), box=box[::-1], flip=np.bool_(flip), transposed=np.bool_(True)
    )
    np.testing.assert_allclose(turned, straight, atol=1e-3)


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
def test_jitter_equals_pil(frame, name, factor):
    expected = ENHANCERS[name](Image.fromarray(square(frame)[0])).enhance(factor)
    found = jitter(square(frame), **{name: factor})[0]
    # PIL truncates, and rounds the gray level that it blends with: half a level, times 0.4.
    assert np.abs(found - np.asarray(expected, np.float32)).max() <= 1.21


def test_contrast_uses_mean_of_each_frame():
    frames = np.stack([np.full((SIZE, SIZE, 3), level, np.uint8) for level in (20, 200)])
    np.testing.assert_allclose(jitter(frames, contrast=0.5), frames, atol=1e-3)


@pytest.mark.parametrize("turns", [-0.2, 0.0, 0.05, 0.2, 0.5])
def test_hue_is_a_rotation_in_hsv(frame, turns):
    found = jitter(square(frame), hue=turns)[0]

    def rotated(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)

    expected = [[rotated(p / 255) for p in row] for row in square(frame)[0].astype(float)]
    np.testing.assert_allclose(found, 255 * np.array(expected), atol=2e-3)


@pytest.mark.parametrize("turns", [-0.2, 0.1])
def test_hue_equals_torchvision_on_pil_images(frame, turns):
    hue, saturation, value = Image.fromarray(square(frame)[0]).convert("HSV").split()
    turned = (np.asarray(hue, int) + int(turns * 255)) % 256
    hsv = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value))
    difference = np.abs(jitter(square(frame), hue=turns)[0] - np.asarray(hsv.convert("RGB"), int))
    # PIL has 256 hues: an error of 6 * 255 / 256 levels in old hue, new hue and rotation each.
    assert difference.max() <= 16
    assert difference.mean() <= 4


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)])
def test_jitter_is_applied_in_drawn_order(frame, order):
    draws = {"brightness": 1.4, "contrast": 0.6, "saturation": 1.3, "hue": 0.15}
    together = jitter(square(frame), order=np.array(order, np.int32), **draws)
    expected = square(frame).astype(np.float32)
    for operation in order:
        name = list(draws)[operation]
        expected = apply_one(expected, name, draws[name])
    np.testing.assert_allclose(together, expected, atol=0.01)


def apply_one(frames: np.ndarray, name: str, draw: float) -> np.ndarray:
    luma = frames @ np.array([0.299, 0.587, 0.114], np.float32)
    if name == "hue":
        turned = [colorsys.rgb_to_hsv(*p) for p in frames.reshape(-1, 3) / 255]
        rgb = [colorsys.hsv_to_rgb((h + draw) % 1, s, v) for h, s, v in turned]
        return 255 * np.array(rgb, np.float32).reshape(frames.shape)
    reference = {
        "brightness": np.zeros_like(luma),
        "contrast": luma.mean(axis=(1, 2), keepdims=True),
        "saturation": luma,
    }[name]
    return np.clip(draw * frames + (1 - draw) * reference[..., None], 0, 255)


def test_grayscale_equals_pil(frame):
    expected = np.asarray(Image.fromarray(square(frame)[0]).convert("L"), np.float32)
    found = change(square(frame), grayscale=np.bool_(True))[0]
    assert np.abs(found - expected[..., None]).max() <= 0.51
    np.testing.assert_allclose(
        change(square(frame), grayscale=np.bool_(False)), square(frame), atol=1e-3
    )


@pytest.mark.parametrize("size", [24, 40, 96])
@pytest.mark.parametrize("along,down", [(0.1, 0.1), (1.0, 1.0), (2.0, 2.0), (0.1, 2.0), (1.5, 0)])
def test_blur_equals_torchvision(size, along, down):
    frame = np.random.default_rng(2).integers(0, 256, (size, size, 3), np.uint8)
    radius = size // 20
    taps = np.arange(-radius, radius + 1)
    expected = np.pad(
        frame.astype(float), ((radius, radius), (radius, radius), (0, 0)), mode="reflect"
    )
    for axis, sigma in enumerate((down, along)):
        kernel = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
        kernel /= kernel.sum()
        expected = np.apply_along_axis(np.convolve, axis, expected, kernel, mode="valid")
    found = change(frame[None], size=size, blur_sigma=np.array([along, down], np.float32))[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_sigma_zero_changes_nothing(frame):
    found = change(square(frame), blur_sigma=np.zeros(2, np.float32))
    np.testing.assert_allclose(found, square(frame), atol=1e-3)


def test_pixels_are_normalized_by_mean_and_std():
    video = VideoConfig()
    view = {"frames": jnp.full((1, 2, 8, 8, 3), 51, jnp.uint8), "box": jnp.full((1, 2), 8.0)}
    found = np.asarray(augment_video(video, view, 8))
    np.testing.assert_allclose(
        found[0, 0, 0, 0], (0.2 - np.array(video.mean)) / np.array(video.std), rtol=1e-5
    )


def change_sound(log_mel: np.ndarray, augment_config: AudioAugment, **draws) -> np.ndarray:
    """Augments one spectrogram (float, not normalized) with given random numbers."""
    view = {"log_mel": record_schema.encode_log_mel(log_mel), **draws}
    batched = {key: jnp.asarray(value)[None] for key, value in view.items()}
    return np.asarray(augment_audio(AudioConfig(mean=0.0, std=1.0), augment_config, batched))[0]


@pytest.mark.parametrize("gain", [0.8, 1.0, 1.2])
def test_volume_of_a_filter_bank_equals_gain_of_waveform_and_leaves_padding(gain):
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    audio = AudioConfig(spectrogram="kaldi", fft=512, hop=160, mels=8, columns=30)
    quiet, loud = (kaldi.columns_of(np.float32(g) * waveform, 0, 30, 8) for g in (1, gain))
    assert not quiet[:, 23:].any()
    view = {"log_mel": jnp.asarray(quiet)[None], "gain": jnp.float32([gain])}
    found = augment_audio(audio, audio.global_augment, view)
    np.testing.assert_allclose(found[0], (loud - audio.mean) / audio.std, atol=1e-5)


@pytest.mark.parametrize("gain", [0.8, 1.0, 1.2])
def test_volume_equals_gain_of_waveform(gain):
    rng = np.random.default_rng(0)
    waveform = rng.standard_normal(8000).astype(np.float32) * np.linspace(0, 0.3, 8000)
    waveform[:2000] = 0  # silence stays at the floor
    quiet, loud = log_mel_lib.log_mel(waveform), log_mel_lib.log_mel(np.float32(gain) * waveform)
    found = change_sound(quiet, AudioAugment(), gain=np.float32(gain))
    np.testing.assert_allclose(found, loud, atol=6e-4)  # the fixed point's 2.5e-4, twice


@pytest.mark.parametrize(
    "box",
    [(0, 0, 16, 36), (2, 3, 11, 20), (5, 20, 9, 16), (0, 6, 16, 24), (3, 0, 1, 1), (0, 35, 16, 1)],
)
def test_crop_is_a_bicubic_resize_of_a_box_of_the_canvas(box):
    augment_config = AudioAugment(volume=0, crop=True)
    log_mel = np.random.default_rng(0).uniform(-15, 5, (16, 24))
    log_mel = record_schema.decode_log_mel(record_schema.encode_log_mel(log_mel))
    canvas = np.zeros(audio_views.canvas_of_log_mel(16, 24, augment_config))
    canvas[:, 6:30] = log_mel
    top, left, height, width = box
    expected = bicubic.resize_image(canvas[top : top + height, left : left + width], (16, 24))
    found = change_sound(log_mel, augment_config, box=np.array(box, np.int32))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_crop_pads_with_zeros_after_normalization():
    view = {
        "log_mel": jnp.asarray(record_schema.encode_log_mel(np.full((1, 8, 8), 1.0))),
        "box": jnp.array([[0, 0, 8, 2]]),
    }
    crop = AudioAugment(volume=0, crop=True, canvas=(1.0, 2.0))
    found = np.asarray(audio_lib.augment_audio(AudioConfig(mean=5.0, std=2.0), crop, view))
    np.testing.assert_array_equal(found, 0)


@pytest.fixture(scope="module")
def config(small) -> Config:
    return dataclasses.replace(
        small,
        video=dataclasses.replace(small.video, local_views=2),
        audio=dataclasses.replace(small.audio, local_views=3),
        data=dataclasses.replace(small.data, short_side=20),
    )


def batch_of(config: Config, samples: int) -> dict:
    def row(seed: int):
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 256, (config.video.frames, 20, 30, 3), np.uint8)
        log_mel = rng.integers(0, 40000, config.audio.global_shape).astype(np.uint16)
        streams = lambda name: random.Random(f"{seed}/{name}")  # noqa: E731
        return views.train_views(config, frames, log_mel, streams)

    return jax.tree.map(lambda *rows: np.stack(rows), *[row(seed) for seed in range(samples)])


def test_views_have_shapes_of_config(config):
    made = jax.jit(lambda batch: augment(config, batch))(batch_of(config, 5))
    shapes = jax.tree.map(lambda view: (view.shape, str(view.dtype)), made)
    assert shapes == {
        "video": {
            "global": ((5, *config.video.global_shape, 3), "float32"),
            "local": ((2, 5, *config.video.local_shape, 3), "float32"),
        },
        "audio": {
            "global": ((5, *config.audio.global_shape), "float32"),
            "local": ((3, 5, *config.audio.local_shape), "float32"),
        },
    }


def test_sample_is_independent_of_batch(config):
    batch = batch_of(config, 3)
    jitted = jax.jit(lambda batch: augment(config, batch))
    together = jitted(batch)
    for i in range(3):
        alone = jitted(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], batch))
        for modality in ("video", "audio"):
            for kind, axis in (("global", 0), ("local", 1)):
                np.testing.assert_allclose(
                    np.take(together[modality][kind], [i], axis),
                    alone[modality][kind],
                    atol=2e-5,
                )


def test_pixels_outside_box_have_no_effect(config):
    batch = batch_of(config, 3)
    filled = jax.tree.map(np.copy, batch)
    for view in filled["video"].values():
        height, width = (view["box"][..., i, None, None, None] for i in (0, 1))
        rows, columns = np.indices(view["frames"].shape[-3:-1])
        around = (rows >= height) | (columns >= width)
        view["frames"] = np.where(around[..., None], np.uint8(213), view["frames"])
    assert (filled["video"]["global"]["frames"] == 213).mean() > 0.1
    jitted = jax.jit(lambda batch: augment(config, batch))
    jax.tree.map(np.testing.assert_array_equal, jitted(filled), jitted(batch))


def test_evaluation_views_are_only_resized_and_normalized(config):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (config.video.frames, 16, 16, 3), np.uint8)
    codes = rng.integers(0, 40000, config.audio.global_shape).astype(np.uint16)
    drawn = views.cut_out(views.draw_eval_views(config, (16, 16), codes), frames)
    batch = jax.tree.map(lambda leaf: leaf[None], drawn)
    made = augment(config, {**batch, "label": {}})
    pixels = np.asarray(made["video"]["global"])[0] * config.video.std + np.array(config.video.mean)
    np.testing.assert_allclose(255 * pixels, frames, atol=1e-3)
    expected = (record_schema.decode_log_mel(codes) - config.audio.mean) / config.audio.std
    np.testing.assert_allclose(made["audio"]["global"][0], expected, atol=1e-5)
    assert set(made["video"]) == set(made["audio"]) == {"global"}


def test_sharded_samples_need_no_communication(config):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch = jax.device_put(batch_of(config, 8), split)
    compiled = jax.jit(lambda batch: augment(config, batch)).lower(batch).compile()
    assert not re.findall(r"all-\w+|collective-\w+|reduce-scatter", compiled.as_text())
