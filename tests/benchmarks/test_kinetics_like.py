import av

from benchmarks import kinetics_like


def test_videos_have_sound_and_stated_size_and_move(tmp_path, monkeypatch):
    monkeypatch.setattr(kinetics_like, "SECONDS", 1)
    paths = kinetics_like.make(str(tmp_path), 2, 96, 128, 200_000)
    assert paths == [str(tmp_path / "class0" / "0.mp4"), str(tmp_path / "class1" / "1.mp4")]
    with av.open(paths[1]) as container:
        assert len(container.streams.audio) == 1
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == 30
    assert {frame.shape for frame in frames} == {(96, 128)}
    assert abs(frames[0].astype(int) - frames[-1]).mean() > 5
