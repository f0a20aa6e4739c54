"""Random boxes of spectrograms."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loader_config import AudioAugment
from data_pipelines.read.audio_views import canvas_of_log_mel, train_view


@settings(max_examples=100, deadline=None)
@given(
    mels=st.integers(1, 100),
    columns=st.integers(1, 200),
    canvas=st.tuples(st.floats(1, 2), st.floats(1, 2)),
    seed=st.integers(0, 2**32),
)
def test_boxes_of_sound_are_on_canvas(mels, columns, canvas, seed):
    augment = AudioAugment(volume=0, crop=True, canvas=canvas)
    log_mel = np.zeros((mels, columns), np.uint16)
    view = train_view(log_mel, augment, random.Random(seed))
    top, left, height, width = view["box"]
    high, wide = canvas_of_log_mel(mels, columns, augment)
    assert 0 <= top <= high - height
    assert 0 <= left <= wide - width
    assert height > 0
    assert max(1, int(0.6 * columns)) <= width <= max(1, int(1.5 * columns))
