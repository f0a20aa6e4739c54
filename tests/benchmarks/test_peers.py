import importlib.util
import os

import media_files
import numpy as np
import pytest

from benchmarks import peers

INSTALLED = {n: r for n, (module, r) in peers.READERS.items() if importlib.util.find_spec(module)}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "video" / "a.mp4"
    path.parent.mkdir()
    return media_files.write(path, media_files.gray_frames(range(20, 220, 2)), codec="libx264")


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("first", [0, 40])
def test_readers_return_frames_at_their_times(video, name, first):
    numbers = np.array([first, first + 1, first + 4, first + 30, 99])
    frames = INSTALLED[name](video, (numbers + 0.5) / 30)
    assert frames.shape == (5, 128, 171, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), 20 + 2 * numbers, atol=1.5)


def test_table_has_each_video_and_names_readers_that_fail(video, monkeypatch, capsys):
    def broken(path, seconds):
        raise OSError("no such codec\nat line 1")

    folder = os.path.dirname(video)
    media_files.write(
        f"{folder}/b.mp4", media_files.gray_frames([60] * 30), sound=media_files.tone(1.0, 16000)
    )
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: None)
    monkeypatch.setattr("cv2.setNumThreads", lambda threads: None)
    readers = {
        "PyAV": ("av", peers.read_by_av),
        "broken": ("av", broken),
        "other": ("no_module", broken),
    }
    monkeypatch.setattr(peers, "READERS", readers)
    monkeypatch.setattr(peers, "ROUNDS", 1)
    monkeypatch.setattr(peers, "BATCH", 1)
    monkeypatch.setattr(peers, "TIMES", 1)
    monkeypatch.setattr("sys.argv", ["peers", f"--source={folder}"])
    peers.main()
    head, _, first, second, _, *notes = capsys.readouterr().out.splitlines()
    assert head == "| video | size | sound | PyAV | broken | shards | shards over the fastest |"
    assert first.startswith("| a.mp4 | 64x48 | no | ")
    assert second.startswith("| b.mp4 | 64x48 | yes | ")
    assert first.split(" | ")[4] == "fails"
    assert notes == [
        "other is not installed.",
        "broken fails on b.mp4: no such codec",
        "broken fails on a.mp4: no such codec",
    ]
