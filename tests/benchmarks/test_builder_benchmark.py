import media_files

from benchmarks import builder


def test_files_of_all_splits_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "ROUNDS", 1)
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        path, frames = tmp_path / split / "cat" / "a.mkv", media_files.gray_frames([60] * 30)
        media_files.write(path, frames, sound=media_files.tone(1.0, 44100))
    found = builder.measure(str(tmp_path))
    assert found["files"] == 2
