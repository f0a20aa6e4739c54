import media_files
import threadpoolctl

from benchmarks import builder


def test_files_of_all_splits_are_measured_on_one_thread(tmp_path, monkeypatch):
    limits: list[int] = []
    monkeypatch.setattr(threadpoolctl, "threadpool_limits", limits.append)
    monkeypatch.setattr(builder, "ROUNDS", 1)
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        path, frames = tmp_path / split / "cat" / "a.mkv", media_files.gray_frames([60] * 30)
        media_files.write(path, frames, sound=media_files.tone(1.0, 44100))
    found = builder.measure(str(tmp_path))
    assert found["files"] == 2
    assert limits == [1]
