"""The images of reconstructions and attention that TensorBoard and reports show."""

import dataclasses

import jax
import numpy as np
import pytest

from xkd_jax.config.pretraining import Config, MeshConfig
from xkd_jax.method.train_state import abstract, parameters
from xkd_jax.networks.student import Student
from xkd_jax.parallel.mesh import batch_sharding, make_mesh
from xkd_jax.planning.plan import abstract_batch
from xkd_jax.training.pictures.drawing import drawn, lit, pictures
from xkd_jax.training.pictures.gallery import seen_function, sheet
from xkd_jax.training.pictures.reconstructed_views import ReconstructedViews

VIEWS = Config().architecture.views


def test_a_row_of_a_sheet_shows_the_middle_frame_of_each_column():
    settings = VIEWS["video"]
    shape = (2, *settings.global_shape, 3)
    levels = ((np.array([0.0, 128.0, 255.0]) / 255)[:, None] - settings.mean) / settings.std
    views = [np.broadcast_to(c, shape).astype(np.float32).copy() for c in levels]
    for view in views:
        view[:, 0] += 1  # not the middle
    image = sheet(*(pictures(settings, view, view) for view in views))
    assert image.shape == (2 * 112, 3 * 112, 3)
    for column, level in enumerate((0, 128, 255)):
        assert np.all(image[:, 112 * column : 112 * (column + 1)] == level)


def test_a_spectrogram_has_low_frequencies_at_the_bottom_and_the_scale_of_the_original():
    settings = VIEWS["audio"]
    original = np.zeros((1, *settings.global_shape), np.float32)
    original[:, 0] = 1  # the lowest band is the loudest
    views = ReconstructedViews(original, 0 * original, 9 * original)
    tokens = np.ones((1, settings.tokens), np.float32)
    shown = drawn(settings, original, views, tokens)
    first, second, third = (part[0, 0] for part in shown[:3])
    assert first[-1].sum() > first[0].sum()  # yellow is brighter than violet
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(third[-1], first[-1])  # values above the scale are clipped


@pytest.mark.parametrize("modality", VIEWS)
def test_constant_views_are_drawn(modality):
    settings = VIEWS[modality]
    color = (3,) if settings.channels else ()
    zeros = np.zeros((1, *settings.global_shape, *color), np.float32)
    shown = drawn(settings, zeros, None, np.zeros((1, settings.tokens), np.float32))
    assert shown.masked is shown.predicted is None
    assert shown.original.shape == shown.attention.shape
    assert sheet(shown.original, shown.attention).dtype == np.uint8


@pytest.mark.parametrize("modality", VIEWS)
@pytest.mark.parametrize("token", [0, 37, -1])
def test_only_the_patch_with_attention_stays_light(modality, token):
    """Patches are in the order (time, height, width) or (mel, time), mel upwards in the picture."""
    settings = VIEWS[modality]
    shape = settings.global_shape if settings.channels else (1, *settings.global_shape)
    white = np.full((1, *shape, 3), 255, np.uint8)
    attention = np.zeros((1, settings.tokens), np.float32)
    attention[0, token] = 0.2
    image = lit(settings, white, attention)[0]
    where = np.unravel_index(token % settings.tokens, settings.grid)
    inside = tuple(slice(i * p, (i + 1) * p) for i, p in zip(where, settings.patch, strict=True))
    light = np.zeros(settings.global_shape, bool)
    light[inside] = True
    if not settings.channels:
        light = light[None, ::-1]
    assert np.all(image[light] == 255)
    assert np.all(image[~light] < 50)


def test_only_the_drawn_rows_leave_the_devices(small):
    """The views of a whole batch may not fit on every device."""
    config = dataclasses.replace(small, modalities=("audio",))
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    batch = abstract_batch(config, batch_sharding(mesh, config.batch_size))
    params = parameters(abstract(Student, config.architecture))
    found = jax.eval_shape(
        seen_function(config, config.model, config.loss.weights, mesh, 2), params, batch
    )
    assert config.batch_size > 2
    assert {leaf.shape[0] for leaf in jax.tree.leaves(found)} == {2}
