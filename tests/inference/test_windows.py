"""Windows of files: where they start, and the options that fit a model."""

import numpy as np
import pytest

import xkd_jax
from data_pipelines.errors import UserError
from data_pipelines.format.record_schema import Record
from xkd_jax.inference.windows import EmbedOptions, Windows


@pytest.fixture(scope="module")
def model(checkpoint):
    """Its clips have 4 frames, of half a second."""
    return xkd_jax.load(checkpoint)


def record(frames: int) -> Record:
    return Record("a", frames=[b""] * frames)


@pytest.mark.parametrize(
    "options,frames,starts",
    [
        ({}, 8, [0, 0.5]),
        ({"hop": 0.375}, 8, [0, 0.375, 0.5]),
        ({"hop": 0.01}, 6, [0, 0.125, 0.25]),
        ({"window": 1.0}, 9, [0, 0.125]),
        ({"window": 2.0}, 8, [0]),
        ({}, 1, [0]),
    ],
)
def test_windows_start_at_whole_frames_and_the_last_ends_with_the_file(
    model, options, frames, starts
):
    windows = Windows.of(model, EmbedOptions(**options))
    assert windows.starts(record(frames)) == starts


def test_windows_of_sound_alone_are_as_long_as_the_spectrogram(model):
    windows = Windows.of(model, EmbedOptions(hop=1e-6))
    audio = windows.config.audio
    mels = np.zeros((audio.mels, audio.columns + 2), np.uint16)
    starts = windows.starts(Record("a", log_mel=mels))
    assert starts == pytest.approx([i * audio.hop / audio.sample_rate for i in range(3)])


@pytest.mark.parametrize(
    "options,words",
    [
        ({"window": 0.3}, "give a multiple of 0.25 s"),
        ({"window": 600.0}, "give seconds above 0 and below 600"),
        ({"hop": 0}, "hop is 0"),
        ({"pool": "mean"}, "give 'window', 'file' or 'none'"),
        ({"batch_size": 0}, "give at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, options, words):
    with pytest.raises(UserError, match=words):
        Windows.of(model, EmbedOptions(**options))
