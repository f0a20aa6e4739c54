"""Random boxes of frames."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loader_config import VideoAugment
from data_pipelines.read.video_views import canvas_size, random_box


def test_boxes_have_uniform_area_and_log_uniform_aspect():
    augment, rng = VideoAugment(area=(0.2, 0.5)), random.Random(0)
    boxes = np.array([random_box(1000, 1000, augment, rng) for _ in range(3000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / 1e6, boxes[:, 3] / boxes[:, 2]
    np.testing.assert_allclose(np.quantile(area, [0, 0.5, 1]), [0.2, 0.35, 0.5], atol=0.01)
    np.testing.assert_allclose(
        np.quantile(aspect, [0, 0.25, 0.5, 1]), [3 / 4, np.sqrt(3 / 4), 1, 4 / 3], atol=0.03
    )
    free = 1000 - boxes[:, 2]
    assert abs((boxes[:, 0] / free).mean() - 0.5) < 0.02


@pytest.mark.parametrize(
    "shape, box",
    [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((10, 11), (0, 0, 10, 11))],
)
def test_box_that_never_fits_becomes_central_one(shape, box):
    never = VideoAugment(area=(50.0, 60.0))
    assert random_box(shape[0], shape[1], never, random.Random(0)) == box


@settings(max_examples=200, deadline=None)
@given(
    short=st.integers(1, 200),
    stretch=st.floats(1, 30),
    tall=st.booleans(),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
    aspect=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)).map(sorted).map(tuple),
    seed=st.integers(0, 2**32),
)
def test_no_box_leaves_frame_or_its_canvas(short, stretch, tall, area, aspect, seed):
    augment = VideoAugment(area=area, aspect=aspect)
    shape = (int(short * stretch), short) if tall else (short, int(short * stretch))
    top, left, height, width = random_box(*shape, augment, random.Random(seed))
    assert top >= 0
    assert left >= 0
    assert top + max(height, 1) <= shape[0]
    assert left + max(width, 1) <= shape[1]
    lower, longer = canvas_size(short, augment)
    assert max(height, width) <= longer
    assert min(height, width) <= lower
    assert height <= lower or shape[0] > shape[1]
