"""One command from a folder of videos: shards are made on first use."""

import collections
import dataclasses
import math
import os
import signal
from unittest.mock import Mock

import media_files
import pytest
from method_inputs import change
from small_run import SMALL

from data_pipelines import activity
from data_pipelines.build import __main__ as build
from data_pipelines.build import build_plan, builder
from data_pipelines.errors import StoppedError, UserError
from data_pipelines.lease import LeaseHeldError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.training.data import run_data
from xkd_jax.training.faults import joint_work


@pytest.fixture(autouse=True)
def no_lines_of_activities(monkeypatch):
    """Prints no progress lines, even on a slow machine."""
    monkeypatch.setattr(activity, "LINE_SECONDS", math.inf)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Seven videos of a second, of which one can't be read."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        media_files.write(folder / f"{i}.mp4", media_files.gray_frames([30 * i] * 30))
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture
def config(source):
    """Video only: audio would import librosa in every worker, which is slow."""
    config = dataclasses.replace(SMALL, modalities=("video",))
    return change(config, data={"videos": str(source), "short_side": 16})


@pytest.fixture
def videos(config, tmp_path, monkeypatch):
    """A folder that may be changed, in place of `source`; with several shards."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for file in os.scandir(config.data.videos):
        os.link(file.path, folder / file.name)
    monkeypatch.setattr(build_plan, "FILES_PER_SHARD", 2)
    return folder


def test_shards_are_made_in_workdir_and_used_again(config, tmp_path, capsys):
    made = run_data.directory(config, config.probe, tmp_path / "run")
    assert made == str(tmp_path / "run" / "data")
    told = capsys.readouterr().out
    first = told.splitlines()[0]
    assert first.startswith(f"shards    of 7 files of {config.data.videos}: about ")
    assert f" MB in {made} (from 2 files)" in first
    assert "built     7/7 " in told
    assert "left out 1 of 7 files: 1 unreadable\n  text.mp4: unreadable" in told
    assert len(open_dataset(config, made, "train", modalities=("video",))) == 6
    before = {file.name: file.stat().st_mtime_ns for file in os.scandir(made)}
    assert run_data.directory(config, config.probe, tmp_path / "run") == made
    assert {file.name: file.stat().st_mtime_ns for file in os.scandir(made)} == before
    assert capsys.readouterr().out == ""


def test_stopped_run_resumes_with_finished_shards(config, videos, tmp_path, monkeypatch, capsys):
    config = change(config, data={"videos": str(videos)})
    write, written = builder.write_shard, []

    def write_and_signal(shard, results, output):
        report = write(shard, results, output)
        written.append(shard.name)
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return report

    monkeypatch.setattr(joint_work, "EVERY", 0.0)
    monkeypatch.setattr(builder, "write_shard", write_and_signal)
    with pytest.raises(StoppedError, match="while making shards, as requested: run the same"):
        run_data.directory(config, config.probe, tmp_path / "run")
    assert len(written) == 2
    capsys.readouterr()
    made = run_data.directory(config, config.probe, tmp_path / "run")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "resume    2 of 4 shards are finished"
    assert told[1].startswith("shards    of 4 files of ")
    assert len(written) == len(set(written)) == 4
    assert len(open_dataset(config, made, "train", modalities=("video",))) == 6


def test_shards_of_build_command_are_used_and_changes_of_files_noted(
    config, videos, tmp_path, capsys
):
    shards = tmp_path / "shards"
    options = [f"--source={videos}", f"--output={shards}", "--short_side=16", "--workers=1"]
    assert build.main(["--dataset=folder", "--modalities=video", "--mels=16", *options]) == 0
    config = change(config, data={"videos": str(videos), "dir": str(shards)})
    capsys.readouterr()
    assert run_data.directory(config, config.probe, tmp_path / "run") == str(shards)
    assert capsys.readouterr().out == ""
    (videos / "0.mp4").rename(videos / "new.mp4")
    run_data.directory(config, config.probe, tmp_path / "run")
    told = capsys.readouterr().out
    assert told.startswith(f"note      the shards of {videos} were made of other files or with")
    assert told.count("\n") == 1
    videos.rename(tmp_path / "moved")
    run_data.directory(config, config.probe, tmp_path / "run")
    assert f"note      {videos} can't be listed now, and its shards are" in capsys.readouterr().out


def test_build_of_another_run_is_waited_for_and_used(config, tmp_path, monkeypatch, capsys):
    start = builder.start

    def finish_elsewhere(plan, output):
        monkeypatch.setattr(builder, "start", start)
        builder.run(plan, output, workers=1, timeout=60)
        monkeypatch.setattr(builder, "build_shards", None)
        raise LeaseHeldError("Another process is building there.")

    monkeypatch.setattr(builder, "start", finish_elsewhere)
    made = run_data.directory(config, config.probe, tmp_path / "run")
    told = capsys.readouterr().out
    assert told == f"waiting   for another process that makes shards in {made}\n"
    assert len(open_dataset(config, made, "train", modalities=("video",))) == 6


def test_full_disk_is_refused_before_build(config, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1000))
    monkeypatch.setattr(builder, "write_shard", None)
    message = r"run/data has 0.001 MB free, and the shards of .* take about [\d.]+ MB: free disk"
    with pytest.raises(UserError, match=message):
        run_data.directory(config, config.probe, tmp_path / "run")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"videos": ""}, "data.dir is empty: give --config.data.videos=VIDEOS, a folder, or"),
        ({"dataset": "spoken_digits"}, "and data.dataset is 'spoken_digits': give"),
    ],
)
def test_config_without_data_or_with_two_kinds_is_refused(config, changes, message):
    with pytest.raises(UserError, match=message):
        run_data.check(dataclasses.replace(config.data, **changes))


def test_data_set_of_other_source_is_refused(config, tmp_path):
    directory = tmp_path / "shards"
    directory.mkdir()
    (directory / "dataset_info.json").write_text("{}")
    other = change(config, data={"dir": str(directory)})
    with pytest.raises(UserError, match=r"shards has another data set, and data.videos is .*: lea"):
        run_data.directory(other, other.probe, tmp_path / "run")


def test_run_that_can_not_start_is_refused_before_build(config, tmp_path):
    refuse = Mock(side_effect=UserError("A step does not fit."))
    with pytest.raises(UserError, match=r"A step does not fit\."):
        run_data.directory(config, config.probe, tmp_path / "run", refuse)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "section, values, message",
    [
        (
            "data",
            {"split": "train+extra"},
            r"data.split is train\+extra, and .* has only the split",
        ),
        ("probe", {"enabled": True}, r"probe.split is test, and .*: give --config.probe.split=tr"),
    ],
)
def test_run_that_needs_another_split_is_refused_before_build(
    config, tmp_path, section, values, message
):
    changed = change(config, **{section: values})
    with pytest.raises(UserError, match=message):
        run_data.directory(changed, changed.probe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shards_inside_source_are_refused(config, source):
    with pytest.raises(UserError, match=r"is inside .*, their source: give a folder outside"):
        run_data.directory(config, config.probe, source / "run")
    assert not (source / "run").exists()
