"""The command that writes features: rows, formats, resuming, jobs, and what is left out."""

import csv
import json

import fsspec
import media_files
import numpy as np
import pyarrow.parquet as pq
import pytest

import xkd_jax
from xkd_jax import embed
from xkd_jax.inference import feature_files


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "sub").mkdir()
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(30)]
    tone = media_files.tone(1.0, 16000, 500)
    media_files.write(folder / "both.avi", frames, sound=tone, sample_rate=16000)
    media_files.write(folder / "sub" / "silent.avi", frames)
    media_files.write(folder / "tone.wav", sound=tone, sample_rate=16000)
    (folder / "damaged.mp4").write_bytes(b"no video at all")
    (folder / "notes.md").write_text("not media")
    return folder


def run(checkpoint, source, output, *options):
    return embed.main(
        [f"--checkpoint={checkpoint}", f"--source={source}", f"--output={output}", "--workers=0",
         *options]
    )  # fmt: skip


def rows(output):
    parts = sorted(output.glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_rows_of_a_folder_are_those_of_embed(checkpoint, source, tmp_path, capsys):
    assert run(checkpoint, source, tmp_path) == 0
    *others, said = capsys.readouterr().out.splitlines()
    assert "not used: 1 .md files (first: notes.md)" in others
    assert "of 3 files" in said
    assert "2 rows with both modalities; 1 of 4 files left out" in said
    model = xkd_jax.load(checkpoint)
    found = rows(tmp_path)
    for name in ("both.avi", "sub/silent.avi", "tone.wav"):
        expected = model.embed(str(source / name))
        own = [row for row in found if row["path"] == str(source / name)]
        assert [row["start"] for row in own] == list(expected.start)
        assert [row["end"] for row in own] == list(expected.end)
        for modality in ("video", "audio"):
            values = getattr(expected, modality)
            if values is None:
                assert all(row[modality] is None for row in own)
            else:
                np.testing.assert_array_equal(np.float32([r[modality] for r in own]), values)
    with open(tmp_path / "left_out.csv", encoding="utf-8") as file:
        (lost,) = csv.DictReader(file)
    assert (lost["path"], lost["reason"]) == (str(source / "damaged.mp4"), "unreadable")
    (part,) = tmp_path.glob("*.parquet")
    settings = json.loads(pq.read_schema(part).metadata[b"xkd_jax"])
    assert settings["digest"] == model.digest
    assert settings["window"] == 0.5


def test_an_interrupted_command_resumes_with_the_same_rows(
    checkpoint, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(feature_files, "FILES_A_PART", 1)
    assert run(checkpoint, source, tmp_path / "whole") == 0
    write = feature_files.FeatureFolder.write

    def stops(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(feature_files.FeatureFolder, "write", stops)
    assert run(checkpoint, source, tmp_path / "cut") == 130
    monkeypatch.setattr(feature_files.FeatureFolder, "write", write)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("part-*")}
    assert kept
    assert run(checkpoint, source, tmp_path / "cut") == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_another_setting_in_the_same_folder_is_refused(checkpoint, source, tmp_path, capsys):
    assert run(checkpoint, source, tmp_path) == 0
    assert run(checkpoint, source, tmp_path, "--hop=0.25") == 2
    assert "has features made with another hop" in capsys.readouterr().err
    assert run(checkpoint, source, tmp_path, "--network=teacher") == 2


def test_jobs_share_the_files(checkpoint, source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_files, "FILES_A_PART", 1)
    assert run(checkpoint, source, tmp_path / "jobs", "--shard=2/2") == 0
    assert "Other jobs' parts are missing." in capsys.readouterr().out
    assert run(checkpoint, source, tmp_path / "jobs", "--shard=1/2") == 0
    assert "missing" not in capsys.readouterr().out
    assert run(checkpoint, source, tmp_path / "one") == 0
    assert rows(tmp_path / "jobs") == rows(tmp_path / "one")


def test_npz_of_tokens_from_a_list(checkpoint, source, tmp_path):
    (source / "list.txt").write_text("both.avi\n\nsub/silent.avi\n")
    options = ("--format=npz", "--pool=none", "--modalities=video")
    assert run(checkpoint, source / "list.txt", tmp_path, *options) == 0
    files = sorted(tmp_path.glob("*.npz"))
    assert [file.name.partition("-")[2] for file in files] == ["both.avi.npz", "silent.avi.npz"]
    with np.load(files[0]) as arrays:
        assert sorted(arrays) == ["end", "settings", "start", "video"]
        assert arrays["video"].shape == (2, 8, 24)
        assert json.loads(bytes(arrays["settings"]))["path"].endswith("both.avi")


@pytest.mark.parametrize("given", ["videos", "videos/both.avi", "videos/list.txt"])
def test_rows_of_a_store_are_those_of_local_files(checkpoint, source, tmp_path, given):
    store = fsspec.filesystem("memory")
    store.put_file(str(source / "both.avi"), f"/{tmp_path.name}/videos/both.avi")
    store.pipe_file(f"/{tmp_path.name}/videos/list.txt", b"both.avi\n")
    url = f"memory://{tmp_path.name}"
    assert run(checkpoint, f"{url}/{given}", f"{url}/features") == 0
    assert run(checkpoint, source / "both.avi", tmp_path / "local") == 0
    store.get(f"/{tmp_path.name}/features/", str(tmp_path / "remote"), recursive=True)
    found, expected = rows(tmp_path / "remote"), rows(tmp_path / "local")
    assert {row.pop("path") for row in found} == {f"{url}/videos/both.avi"}
    assert {row.pop("path") for row in expected} == {str(source / "both.avi")}
    assert found == expected


def test_decoding_in_workers_changes_nothing(checkpoint, source, tmp_path):
    assert run(checkpoint, source / "both.avi", tmp_path / "here") == 0
    assert run(checkpoint, source / "both.avi", tmp_path / "there", "--workers=1") == 0
    assert rows(tmp_path / "here") == rows(tmp_path / "there")


def test_left_out_files_fail_on_request_or_if_none_remain(checkpoint, source, tmp_path):
    assert run(checkpoint, source, tmp_path / "strict", "--strict") == 1
    assert run(checkpoint, source / "damaged.mp4", tmp_path / "none") == 1


@pytest.mark.parametrize(
    "options,words",
    [
        (["--shard=3/2"], "give N/COUNT, such as 2/8"),
        (["--pool=none"], "give --format=npz"),
        (["--modalities=smell"], "give video, audio or video,audio"),
        (["--window=0.3"], "give a multiple of 0.25 s"),
        (["--workers=-1"], "give 0 to 1024"),
        (["--step=5"], "has no checkpoint of step 5"),
    ],
)
def test_invalid_arguments_are_one_sentence(checkpoint, source, tmp_path, capsys, options, words):
    assert run(checkpoint, source, tmp_path, *options) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "files,words", [((), "has no files: give"), (("notes.md",), "has no files of sound or video")]
)
def test_a_source_without_media_is_refused(checkpoint, tmp_path, capsys, files, words):
    (tmp_path / "source").mkdir()
    for name in files:
        (tmp_path / "source" / name).touch()
    assert run(checkpoint, tmp_path / "source", tmp_path / "out") == 2
    assert words in capsys.readouterr().err
