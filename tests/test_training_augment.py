"""What clips go through before a classifier is trained on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from xkd_jax.augment import rand_augment as rand
from xkd_jax.augment.erasing import erase
from xkd_jax.augment.mixing import mix
from xkd_jax.augment.spec_augment import mask_axis, warp_time
from xkd_jax.config import AudioConfig, MeshConfig, VideoConfig
from xkd_jax.evaluate.config import FitAugmentConfig
from xkd_jax.evaluate.training_clips import augment_for_fit
from xkd_jax.networks.blocks import DropPath
from xkd_jax.sharding import batch_sharding, make_mesh, on_mesh

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
    "colour": lambda im: ImageEnhance.Color(im).enhance(1.45),
    "contrast": lambda im: ImageEnhance.Contrast(im).enhance(1.45),
    "brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.45),
    "sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.45),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_tones_are_pils(image, apply, name):
    clip = jnp.asarray(image[None], jnp.float32)
    found = apply(clip, rand.OPERATIONS.index(name), 0.5, 1.0)[0]
    expected = np.asarray(REFERENCES[name](Image.fromarray(image)), np.float32)
    # PIL cuts fractions off, more than once for the enhancements
    np.testing.assert_allclose(found, expected, atol=2.5)


@pytest.mark.parametrize(
    "name,matrix",
    [
        ("translate_x", (1, 0, 0.225, 0, 1, 0)),
        ("translate_y", (1, 0, 0, 0, 1, 0.225)),
        ("shear_x", (1, 0.15, 0, 0, 1, 0)),
        ("shear_y", (1, 0, 0, 0.15, 1, 0)),
    ],
)
def test_translations_and_shears_are_pils(image, apply, name, matrix):
    clip = jnp.asarray(image[None], jnp.float32)
    found = apply(clip, rand.OPERATIONS.index(name), 0.5, 1.0)[0]
    matrix = [SIZE * m if i in (2, 5) else m for i, m in enumerate(matrix)]
    reference = Image.fromarray(image).transform(
        (SIZE, SIZE),
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=(128,) * 3,
    )
    inner = slice(0, SIZE - 7)
    np.testing.assert_allclose(
        found[inner, inner], np.asarray(reference, np.float32)[inner, inner], atol=1.5
    )


def test_a_rotation_turns_every_frame_about_its_centre(apply):
    clip = np.zeros((2, 25, 25, 3), np.float32)
    clip[:, 12, 12], clip[1, 12, 20] = 255, 255
    found = np.asarray(apply(clip, rand.OPERATIONS.index("rotate"), 1.0, 1.0))
    assert found[0, 12, 12, 0] == pytest.approx(255)
    assert found[0, 12, 12, 0] == found[1, 12, 12, 0]
    far = np.argwhere(found[1, ..., 0] == found[1, :, 15:, 0].max())[0]
    angle = np.degrees(np.arctan2(far[0] - 12, far[1] - 12))
    assert abs(abs(angle) - 30) < 5


def test_no_magnitude_changes_nothing_that_has_one(image, apply):
    clip = jnp.asarray(np.stack([image, 255 - image]), jnp.float32)
    for name in ("rotate", "solarize_add", "colour", "sharpness", "shear_x", "translate_y"):
        found = apply(clip, rand.OPERATIONS.index(name), 0.0, -1.0)
        np.testing.assert_allclose(found, clip, atol=1e-3)


def test_clips_get_operations_of_their_own():
    rng = np.random.default_rng(1)
    clip = rng.uniform(0, 255, (1, 1, SIZE, SIZE, 3)).astype(np.float32)
    clips = np.tile(clip, (16, 3, 1, 1, 1))  # equal clips of three equal frames
    found = np.asarray(rand.rand_augment(jnp.asarray(clips), jax.random.key(0), 4, 7.0))
    assert found.min() >= 0
    assert found.max() <= 255
    np.testing.assert_allclose(found[:, :1], found[:, 1:2], atol=1e-3)  # consistent over time
    assert len({f.tobytes() for f in found[:, 0]}) >= 12  # one of 16 draws no operation


def test_a_mesh_augments_as_one_device_and_keeps_clips_where_they_are():
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


def test_mixup_blends_clips_and_targets_alike():
    clips = jnp.arange(4.0)[:, None, None, None, None] * jnp.ones((1, 2, 8, 8, 3))
    targets = jnp.eye(4)
    mixed, found = mix(clips, targets, jax.random.key(3), 0.6, 0.0)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mixed[:, 0, 0, 0, 0], found @ np.arange(4.0), atol=1e-5)
    assert found[0, 0] == pytest.approx(found[3, 3])
    assert found[0, 0] + found[0, 3] == pytest.approx(1)


def test_cutmix_targets_are_the_shares_of_the_pixels():
    clips = jnp.arange(2.0)[:, None, None, None, None] * jnp.ones((1, 3, 16, 16, 3))
    for seed in range(8):
        mixed, found = mix(clips, jnp.eye(2), jax.random.key(seed), 0.0, 0.5)
        np.testing.assert_allclose(mixed[0].mean(), found[0, 1], atol=1e-6)
        np.testing.assert_array_equal(mixed[:, 0], mixed[:, 2])


def test_masks_are_stretches_of_one_axis():
    spectrograms = np.random.default_rng(4).normal(-1.2, 1, (200, 30, 50)).astype(np.float32)
    found = np.asarray(mask_axis(spectrograms, jax.random.key(0), 1, 2, 10))
    means = spectrograms.mean((1, 2), keepdims=True)  # what is masked becomes its spectrogram's
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


def test_warped_time_moves_one_column_and_keeps_the_ends():
    ramp = jnp.tile(jnp.arange(100.0), (32, 3, 1))
    found = np.asarray(warp_time(ramp, jax.random.key(1), 20))
    np.testing.assert_allclose(found[:, :, 0], 0, atol=1e-4)
    np.testing.assert_allclose(found[:, :, -1], 99, atol=1e-4)
    assert (np.diff(found, axis=2) > 0).all()  # in order
    shift = np.abs(found - np.arange(100)).max((1, 2))
    assert shift.max() < 20.5
    assert len(np.unique(shift.round(2))) > 10
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_nothing_is_on_unless_asked_for():
    video, audio = VideoConfig(), AudioConfig()
    clips = jnp.ones((2, 2, 8, 8, 3))
    view, targets = augment_for_fit(clips, jnp.eye(2), jax.random.key(0), FitAugmentConfig(), video)
    assert view is clips
    assert (targets == jnp.eye(2)).all()
    spectrogram = jnp.ones((2, 8, 8))
    settings = FitAugmentConfig(operations=4, mixup=0.5)  # of video
    view, _ = augment_for_fit(spectrogram, jnp.eye(2), jax.random.key(0), settings, audio)
    assert view is spectrogram


def test_drop_path_keeps_the_mean_and_drops_more_in_later_blocks():
    scales = np.asarray(DropPath(0.5, jax.random.key(0)).scales(3, 4000))
    assert scales.shape == (3, 2, 4000)
    np.testing.assert_allclose(scales.mean((1, 2)), 1, atol=0.05)
    np.testing.assert_allclose((scales == 0).mean((1, 2)), [0, 0.25, 0.5], atol=0.02)
