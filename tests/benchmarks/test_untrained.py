"""benchmarks.untrained: the fraction of variance between classes, and refused options."""

import numpy as np
import pytest

from benchmarks import untrained


def test_fraction_between_classes_is_one_or_zero():
    labels = np.repeat(np.arange(4), 6)
    word = np.eye(4, dtype=np.float32)[labels]
    speaker = np.eye(6, dtype=np.float32)[np.tile(np.arange(6), 4)]
    assert untrained.fraction_between_classes(word, labels) == pytest.approx(1)
    assert untrained.fraction_between_classes(speaker, labels) == pytest.approx(0)
    both = np.concatenate([word, 2 * speaker], axis=1) + 5
    word_variance, speaker_variance = 1 - 1 / 4, 4 * (1 - 1 / 6)
    fraction = word_variance / (word_variance + speaker_variance)
    assert untrained.fraction_between_classes(both, labels) == pytest.approx(fraction)


@pytest.mark.parametrize(
    "option, message",
    [
        ("--patches=40", "'40': give bands x columns"),
        ("--patches=7x4", "change audio.patch"),
        ("--seeds=x", "'x': give whole numbers"),
        ("--speech_dir=absent", "speech_dir"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, capsys, option, message):
    with pytest.raises(SystemExit) as stopped:
        untrained.main([f"--output={tmp_path / 'out'}", option])
    assert message in f"{capsys.readouterr().err} {stopped.value}"
