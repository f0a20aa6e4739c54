"""The images of reconstructions that TensorBoard shows."""

import numpy as np
import pytest

from xkd_jax.config.pretraining import Config
from xkd_jax.training.pictures import sheet
from xkd_jax.training.reconstructed_views import ReconstructedViews

VIEWS = Config().architecture.views


def test_a_row_shows_the_middle_frame_original_masked_and_predicted():
    settings = VIEWS["video"]
    shape = (2, *settings.global_shape, 3)
    levels = ((np.array([0.0, 128.0, 255.0]) / 255)[:, None] - settings.mean) / settings.std
    views = ReconstructedViews(*(np.broadcast_to(c, shape).astype(np.float32) for c in levels))
    image = sheet(settings, views)
    assert image.shape == (2 * 112, 3 * 112, 3)
    for column, level in enumerate((0, 128, 255)):
        assert np.all(image[:, 112 * column : 112 * (column + 1)] == level)


def test_a_spectrogram_has_low_frequencies_at_the_bottom_and_the_scale_of_the_original():
    settings = VIEWS["audio"]
    original = np.zeros((1, *settings.global_shape), np.float32)
    original[:, 0] = 1  # the lowest band is loud
    views = ReconstructedViews(original, 0 * original, 9 * original)
    image = sheet(settings, views)
    first, second, third = np.split(image, 3, axis=1)
    assert first[-1].sum() > first[0].sum()  # yellow is brighter than violet
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(third[-1], first[-1])  # louder than the scale is its end


@pytest.mark.parametrize("modality", VIEWS)
def test_constant_views_are_drawn(modality):
    settings = VIEWS[modality]
    color = (3,) if settings.channels else ()
    zeros = np.zeros((1, *settings.global_shape, *color), np.float32)
    assert sheet(settings, ReconstructedViews(zeros, zeros, zeros)).dtype == np.uint8
