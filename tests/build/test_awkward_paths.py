"""Folders and files with names that resemble URLs, options or patterns."""

from __future__ import annotations

import os
import pathlib

import media_files
import pytest

from data_pipelines.build import __main__ as build
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

NAMES = [
    "a:b.mp4", "http:x.mp4", "file:x.mp4", "concat:a|b.mp4", "pipe:0.mp4", "-v.mp4", "a%03d.mp4",
    "%03d", "a?b=c#d.mp4", "a b\t.mp4", "[x]*.mp4", "c\\d.mp4", "$HOME~.mp4", "caf\u00e9.mp4",
    "subfile,,start,0,end,0,,:x.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    media_files.write(path, media_files.gray_frames([60] * 30))
    return path.read_bytes()


def _build(source: str, output: str = "out") -> int:
    options = ["--dataset=folder", "--workers=1", "--modalities=video"]
    return build.main([*options, f"--source={source}", f"--output={output}"])


def test_files_with_any_name_are_built(video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("in")
    for name in NAMES:
        pathlib.Path("in", name).write_bytes(video)
    assert _build("in") == 0, capsys.readouterr()
    dataset = open_dataset(Config(), "out", "train", ("video",))
    assert sorted(dataset[i].path for i in range(len(dataset))) == sorted(NAMES)


@pytest.mark.parametrize(
    "source",
    ["2024-01-01T12:00", "http:/x", "c:", "-in", "a#b?c", "memory:", "%d/[1-3]", "crypto:y"],
)
def test_relative_folders_with_any_name_are_built(video, tmp_path, monkeypatch, capsys, source):
    monkeypatch.chdir(tmp_path)
    os.makedirs(source)
    pathlib.Path(source, "a.mp4").write_bytes(video)
    assert _build(source, f"{source}.shards") == 0, capsys.readouterr()
    assert len(open_dataset(Config(), f"{source}.shards", "train", ("video",))) == 1


def test_source_may_be_a_file_url(video, tmp_path, capsys):
    (tmp_path / "in:1").mkdir()
    (tmp_path / "in:1" / "a.mp4").write_bytes(video)
    assert _build(f"file://{tmp_path}/in:1", str(tmp_path / "out")) == 0, capsys.readouterr()
