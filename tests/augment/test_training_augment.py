"""Augmentation of clips that train a classifier."""

import bicubic
import golden_miniatures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from data_pipelines.loader_config import AudioConfig, VideoConfig
from xkd_jax.augment import rand_augment as rand
from xkd_jax.augment import spec_augment
from xkd_jax.augment.erasing import erase
from xkd_jax.augment.mixing import class_targets, cut_box, mix
from xkd_jax.augment.spec_augment import mask, mask_axis, warp
from xkd_jax.config.fit_settings import FitAugmentConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.evaluate.training_clips import augment_for_fit
from xkd_jax.networks.blocks import DropPath
from xkd_jax.parallel.mesh import batch_sharding, make_mesh, on_mesh

SIZE = 24


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    smooth = rng.integers(30, 200, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(smooth).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def apply():
    return jax.jit(rand.apply)


REFERENCES = {
    "autocontrast": lambda im: ImageOps.autocontrast(im),
    "equalize": lambda im: ImageOps.equalize(im),
    "invert": lambda im: ImageOps.invert(im),
    "posterize": lambda im: ImageOps.posterize(im, 2),
    "solarize": lambda im: ImageOps.solarize(im, 128),
    "color": lambda im: ImageEnhance.Color(im).enhance(1.45),
    "contrast": lambda im: ImageEnhance.Contrast(im).enhance(1.45),
    "brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.45),
    "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.45),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_color_operations_equal_pil(image, apply, name):
    clip = jnp.asarray(image[None], jnp.float32)
    found = apply(clip, rand.OPERATIONS.index(name), 0.5, 1.0)[0]
    expected = np.asarray(REFERENCES[name](Image.fromarray(image)), np.float32)
    # PIL truncates to whole levels, more than once for the enhancements
    np.testing.assert_allclose(found, expected, atol=2.5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("shape", [(24, 24), (20, 31)])
@pytest.mark.parametrize("name", ["rotate", "translate_x", "translate_y", "shear_x", "shear_y"])
def test_geometric_operations_equal_pil(apply, name, shape, sign):
    height, width = shape
    small = np.random.default_rng(7).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    kwargs = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128,) * 3}
    matrices = {
        "translate_x": (1, 0, sign * 0.225 * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * 0.225 * height),
        "shear_x": (1, sign * 0.15, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * 0.15, 1, 0),
    }
    expected = (
        image.rotate(15 * sign, **kwargs)
        if name == "rotate"
        else image.transform(image.size, Image.Transform.AFFINE, matrices[name], **kwargs)
    )
    clip = jnp.asarray(np.asarray(image)[None], jnp.float32)
    found = apply(clip, rand.OPERATIONS.index(name), 0.5, sign)[0]
    # PIL truncates to whole levels; the same pixels are outside
    np.testing.assert_allclose(found, np.asarray(expected, np.float32), atol=1.01)


def test_magnitude_zero_changes_nothing(image, apply):
    clip = jnp.asarray(np.stack([image, 255 - image]), jnp.float32)
    for name in ("rotate", "solarize_add", "color", "sharpness", "shear_x", "translate_y"):
        found = apply(clip, rand.OPERATIONS.index(name), 0.0, -1.0)
        np.testing.assert_allclose(found, clip, atol=1e-3)


def test_clips_get_different_operations():
    rng = np.random.default_rng(1)
    clip = rng.uniform(0, 255, (1, 1, SIZE, SIZE, 3)).astype(np.float32)
    clips = np.tile(clip, (16, 3, 1, 1, 1))  # equal clips of three equal frames
    found = np.asarray(rand.rand_augment(jnp.asarray(clips), jax.random.key(0), 4, 7.0))
    assert found.min() >= 0
    assert found.max() <= 255
    np.testing.assert_allclose(found[:, :1], found[:, 1:2], atol=1e-3)  # consistent over time
    assert len({f.tobytes() for f in found[:, 0]}) >= 12  # one of 16 draws no operation


def test_augmentation_on_mesh_equals_one_device_without_communication():
    clips = np.random.default_rng(2).uniform(0, 255, (8, 2, SIZE, SIZE, 3)).astype(np.float32)

    def augmented(clips, key):
        return rand.rand_augment(clips, key, 4, 7.0)

    mesh = make_mesh(MeshConfig(data=-1, fsdp=2, tensor=2), jax.devices()[:8])
    rows = batch_sharding(mesh, len(clips))
    key = jax.random.key(5)
    sharded = jax.jit(on_mesh(augmented, mesh), in_shardings=(rows, None)).lower(clips, key)
    compiled = sharded.compile()
    assert "all-gather" not in compiled.as_text()
    found = compiled(jax.device_put(clips, rows), key)
    expected = jax.jit(augmented)(clips, key)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert found.sharding.is_equivalent_to(rows, found.ndim)


def test_erased_boxes_are_the_same_in_every_frame():
    clips = jnp.full((64, 2, 32, 32, 3), 7.0)
    found = np.asarray(erase(clips, jax.random.key(0), 0.25))
    gone = (found != 7).all(-1)
    np.testing.assert_array_equal(gone[:, 0], gone[:, 1])
    hit = gone[:, 0].any((1, 2))
    assert 6 < hit.sum() < 28
    for box in gone[hit, 0]:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns)
        assert 0.01 < box.mean() < 0.4
    assert not (erase(clips, jax.random.key(0), 0.0) != 7).any()


def test_mixup_blends_clips_and_targets_equally():
    clips = jnp.arange(4.0)[:, None, None, None, None] * jnp.ones((1, 2, 8, 8, 3))
    targets = jnp.eye(4)
    mixed, found = mix(clips, targets, jax.random.key(3), 0.6, 0.0)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed[:, 0, 0, 0, 0], found @ np.arange(4.0), atol=1e-5)
    assert found[0, 0] == pytest.approx(found[3, 3])
    assert found[0, 0] + found[0, 3] == pytest.approx(1)


def test_cutmix_targets_are_fractions_of_pixels():
    clips = jnp.arange(2.0)[:, None, None, None, None] * jnp.ones((1, 3, 16, 16, 3))
    for seed in range(8):
        mixed, found = mix(clips, jnp.eye(2), jax.random.key(seed), 0.0, 0.5)
        np.testing.assert_allclose(mixed[0].mean(), found[0, 1], atol=1e-6)
        np.testing.assert_array_equal(mixed[:, 0], mixed[:, 2])


@pytest.mark.parametrize("size", [(224, 224), (24, 24), (20, 30)])
def test_cutmix_boxes_equal_timm(size):
    rng = np.random.default_rng(8)
    for _ in range(40):
        fraction, row, column = rng.beta(0.5, 0.5), rng.integers(size[0]), rng.integers(size[1])
        start, stop, left = cut_box(jnp.float32(fraction), jnp.array([row, column]), size)
        found = (start[0], stop[0], start[1], stop[1], left)
        np.testing.assert_allclose(
            found, golden_miniatures.timm_box(fraction, row, column, *size), atol=1e-6
        )


def test_cutmix_in_time_and_height_equals_timm():
    clips = jnp.arange(2.0)[:, None, None, None, None] * jnp.ones((1, 4, 16, 16, 3))
    unseen = 0
    for seed in range(24):
        key = jax.random.key(seed)
        mixed, found = mix(clips, jnp.eye(2), key, 0.0, 0.5, axes="time_height")
        usual, expected = mix(clips, jnp.eye(2), key, 0.0, 0.5)
        np.testing.assert_array_equal(found, expected)  # with the same random numbers
        box = np.asarray(usual)[0, 0, :, :, 0]  # rows are frames, columns are rows
        pasted = np.asarray(mixed)[0]
        np.testing.assert_array_equal(pasted, np.broadcast_to(box[:4, :, None, None], pasted.shape))
        unseen += bool(found[0, 1] > 0 and not pasted.any())
    assert unseen > 4  # the box begins after the last frame: targets alone are mixed


@pytest.mark.parametrize("mixup,cutmix", [(0.6, 0.0), (0.0, 0.5), (0.6, 0.5)])
def test_groups_are_mixed_separately(mixup, cutmix):
    clips = jnp.arange(12.0)[:, None, None, None, None] * jnp.ones((1, 2, 8, 8, 3))
    mixed, found = mix(clips, jnp.eye(12), jax.random.key(2), mixup, cutmix, group=3)
    found = np.asarray(found)
    np.testing.assert_allclose(
        np.asarray(mixed).mean((1, 2, 3, 4)), found @ np.arange(12.0), atol=1e-5
    )
    for first in range(0, 12, 3):
        block = found[first : first + 3, first : first + 3]
        np.testing.assert_allclose(block.sum(1), 1, rtol=1e-5)
        assert block[1, 1] == pytest.approx(1)
        assert block[0, 0] == pytest.approx(block[2, 2])
    assert len({float(found[first, first]) for first in range(0, 12, 3)}) > 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_smoothed_over_all_classes(smoothing):
    found = np.asarray(class_targets(jnp.array([2, 0]), 5, smoothing))
    expected = np.full((2, 5), smoothing / 5)
    expected[0, 2] += 1 - smoothing
    expected[1, 0] += 1 - smoothing
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_masks_are_intervals_of_one_axis():
    spectrograms = np.random.default_rng(4).normal(-1.2, 1, (200, 30, 50)).astype(np.float32)
    found = np.asarray(mask_axis(spectrograms, jax.random.key(0), 1, 2, 10))
    means = spectrograms.mean((1, 2), keepdims=True)  # masked values become their mean
    masked = found != spectrograms
    np.testing.assert_allclose(found, np.where(masked, means, spectrograms), rtol=1e-5)
    bands = masked.all(2)
    assert (masked.any(2) == bands).all()  # whole bands
    widths = bands.sum(1)
    assert widths.max() <= 20
    assert widths.min() == 0 or widths.min() < 4
    assert 7 < widths.mean() < 11  # two of 5 on average, some of which overlap
    columns = (mask_axis(spectrograms, jax.random.key(0), 2, 2, 20) != spectrograms).all(1)
    assert columns.sum(1).max() <= 40


@pytest.mark.parametrize("column,moved", [(20, 29), (20, 11), (1, 39), (39, 1), (17, 17)])
def test_both_sides_of_warp_are_resized_separately(column, moved):
    spectrogram = np.random.default_rng(5).normal(size=(3, 40))
    found = warp(
        jnp.asarray(spectrogram[None], jnp.float32), jnp.array([column]), jnp.array([moved])
    )
    np.testing.assert_allclose(found[0], bicubic.warp(spectrogram, column, moved), atol=1e-5)


def test_time_warp_moves_column_by_up_to_reach(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        spec_augment, "warp", lambda _, column, moved: drawn.update(column=column, moved=moved)
    )
    spec_augment.warp_time(jnp.zeros((4000, 1, 100)), jax.random.key(1), 20)
    column, shift = np.asarray(drawn["column"]), np.asarray(drawn["moved"] - drawn["column"])
    assert (column.min(), column.max()) == (20, 79)
    assert (shift.min(), shift.max()) == (-19, 20)  # as the authors draw it


def test_masks_take_mean_of_their_spectrogram():
    spectrograms = np.random.default_rng(6).normal(-1.2, 1, (2, 10, 12)).astype(np.float32)
    width, start = jnp.array([[2, 0], [1, 3]]), jnp.array([[7, 3], [0, 5]])
    expected = spectrograms.copy()
    expected[0, 7:9] = spectrograms[0].mean()
    expected[1, 0], expected[1, 5:8] = spectrograms[1].mean(), spectrograms[1].mean()
    np.testing.assert_allclose(mask(spectrograms, 1, width, start), expected, rtol=1e-5)
    turned = mask(spectrograms.swapaxes(1, 2), 2, width, start).swapaxes(1, 2)
    np.testing.assert_allclose(turned, expected, rtol=1e-5)


@pytest.mark.parametrize("widest", [9, 10])
def test_widest_mask_is_included(widest):
    ramp = jnp.tile(jnp.arange(30.0)[:, None] + 100, (1000, 1, 4))
    found = np.asarray(mask_axis(ramp, jax.random.key(0), 1, 1, widest))
    widths = (found != np.asarray(ramp)).all(2).sum(1)
    assert np.unique(widths).tolist() == list(range(widest + 1))


def test_default_augmentation_changes_nothing():
    video, audio = VideoConfig(), AudioConfig()
    clips = jnp.ones((2, 2, 8, 8, 3))
    view, targets = augment_for_fit(clips, jnp.eye(2), jax.random.key(0), FitAugmentConfig(), video)
    assert view is clips
    assert (targets == jnp.eye(2)).all()
    spectrogram = jnp.ones((2, 8, 8))
    settings = FitAugmentConfig(operations=4, mixup=0.5)  # of video
    view, _ = augment_for_fit(spectrogram, jnp.eye(2), jax.random.key(0), settings, audio)
    assert view is spectrogram


def test_drop_path_keeps_mean_and_drops_more_in_later_blocks():
    scales = np.asarray(DropPath(0.5, jax.random.key(0)).scales(3, 4000))
    assert scales.shape == (3, 2, 4000)
    np.testing.assert_allclose(scales.mean((1, 2)), 1, atol=0.05)
    np.testing.assert_allclose((scales == 0).mean((1, 2)), [0, 0.25, 0.5], atol=0.02)
