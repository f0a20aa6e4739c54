"""Nearest clips of galleries."""

import numpy as np

from xkd_jax.report.encoded_clips import Split
from xkd_jax.report.nearest import searches, varied


def split(name, angles, classes, records=None):
    """Clips with video features and head outputs at these angles, and audio at right angles."""
    video = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    audio = np.stack([-video[:, 1], video[:, 0]], 1)
    return Split(
        name, None, np.arange(len(angles)) if records is None else np.array(records),
        [frozenset(c) for c in classes], {"audio": audio, "video": video},
        {"audio": 3 * video, "video": 2 * video},
    )  # fmt: skip


def test_neighbors_are_searched_in_the_bank_and_other_modalities_in_the_queries():
    queries = split("test", np.array([0.0, 1.0]), [{0}, {1}])
    bank = split("train", np.array([0.1, 0.9, 1.2, -3.0]), [{0}, {1}, {1}, {2}])
    video, audio, to_audio, to_video = searches(queries, bank)
    assert [(s.query, s.found) for s in (video, audio, to_audio, to_video)] == [
        ("video", "video"), ("audio", "audio"), ("video", "audio"), ("audio", "video"),
    ]  # fmt: skip
    assert video.order.tolist() == audio.order.tolist() == [[0, 1, 2, 3], [1, 2, 0, 3]]
    np.testing.assert_allclose(video.cosines[0, 0], np.cos(0.1), rtol=1e-5)
    assert to_audio.bank is queries
    assert to_audio.order[:, 0].tolist() == [0, 1]  # the other modality of the same clip
    # two of the first query's class in all eight pairs: one and two of four
    assert (video.same, video.chance) == (3 / 8, 3 / 8)


def test_clips_are_not_their_own_neighbors():
    train = split("train", np.array([0.0, 0.1, 2.0]), [set(), set(), set()], [4, 7, 9])
    video, *_ = searches(train, train)
    assert video.order.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert video.same is video.chance is None  # without classes


def test_classes_alternate():
    clips = split("a", np.zeros(6), [{0}, {0}, {0}, {1}, {1}, {2}])
    assert varied(clips, 4) == [0, 3, 5, 1]
    assert varied(clips, 99) == [0, 3, 5, 1, 4, 2]
