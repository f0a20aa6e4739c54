import errno
import functools
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import media_files
import pytest
from stored_files import digests

from data_pipelines import lease
from data_pipelines.build import __main__ as build
from data_pipelines.build import build_plan, builder
from data_pipelines.build.catalogs import CATALOGS
from data_pipelines.build.catalogs.catalog import Source
from data_pipelines.build.ingest import UNREACHABLE, FileResult, IngestOptions, ingest
from data_pipelines.build.media import MediaOptions
from data_pipelines.errors import UserError
from data_pipelines.format import metadata, record_schema, record_source, shard_names, storage
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

ROOT = pathlib.Path(__file__).parents[2]
VIDEOS = ROOT.parent / "shared" / "videos"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> pathlib.Path:
    """Two classes of three files each; one file is silent and one is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for i in range(3):
            frames = media_files.gray_frames([40 * i + 9] * 30)
            sound = media_files.tone(1.0, 16000) if (label, i) != ("dog", 1) else None
            media_files.write(folder / label / f"{i}.mp4", frames, sound=sound, sample_rate=16000,
                              sound_codec="aac")  # fmt: skip
    (folder / "cat" / "text.mp4").write_text("no video")
    return folder


def _build(source, output, *options) -> int:
    """Builds with video only: audio would import librosa in every worker, which is slow."""
    return build.main(
        [
            "--dataset=folder",
            f"--source={source}",
            f"--output={output}",
            "--workers=1",
            "--modalities=video",
            *options,
        ]
    )


def test_folder_is_built_and_left_out_files_are_reported(videos, tmp_path, capsys):
    assert _build(videos, tmp_path / "out", "--shards=2", "--modalities=") == 0
    message = capsys.readouterr()
    assert "5 records (train 5)" in message.out
    assert "left out 2 of 7 files: 1 no audio, 1 unreadable" in message.out
    assert "dog/1.mp4: no audio" in message.out
    assert "to use the 1 with no audio, build again with --modalities=video" in message.out
    assert "built     7/7 " in message.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {e["path"]: e["reason"] for e in report["left_out"]} == {
        "dog/1.mp4": "no audio",
        "cat/text.mp4": "unreadable",
    }
    dataset = open_dataset(Config(), str(tmp_path / "out"), "train")
    assert dataset.metadata.left_out == {"no audio": 1, "unreadable": 1}
    assert dataset.metadata.class_names == ("cat", "dog")
    found = {dataset[i].path: dataset[i].label for i in range(len(dataset))}
    assert found == {"cat/0.mp4": 0, "cat/1.mp4": 0, "cat/2.mp4": 0, "dog/0.mp4": 1, "dog/2.mp4": 1}


def test_held_out_files_are_split_test(videos, tmp_path, capsys):
    out = tmp_path / "out"
    assert _build(videos, out, "--hold_out=0.3", "--seed=1") == 0
    printed = capsys.readouterr().out
    assert "held out 2 of 7 files as the split test (30 % of each class, seed 1)\n" in printed
    found = {}
    for split in ("train", "test"):
        dataset = open_dataset(Config(), str(out), split, modalities=("video",))
        assert dataset.metadata.class_names == ("cat", "dog")
        found[split] = {dataset[i].path for i in range(len(dataset))}
    assert not found["train"] & found["test"]
    assert {path[:3] for path in found["test"]} == {"cat", "dog"}
    assert _build(videos, out, "--hold_out=0.3", "--seed=1") == 0
    assert "held out 2 of 7 files" in capsys.readouterr().out
    assert _build(videos, out) == 2  # other splits


def test_output_does_not_depend_on_number_of_workers(videos, tmp_path):
    for workers in (1, 3):
        out = tmp_path / str(workers)
        assert _build(videos, out, "--shards=3", f"--workers={workers}") == 0
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


def test_killed_build_resumes(videos, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _build(videos, whole, "--shards=4") == 0
    write = builder.write_shard
    written: list[str] = []

    def write_two(shard, results, output):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        return write(shard, results, output)

    monkeypatch.setattr(builder, "write_shard", write_two)
    assert _build(videos, killed, "--shards=4") == 130
    assert "dataset_info.json" not in digests(killed)
    (killed / "folder-train.tfrecord-00002-of-00004.123.tmp").write_bytes(b"begun")
    before = {name: (killed / name).stat().st_mtime_ns for name in written}
    monkeypatch.setattr(builder, "write_shard", write)
    assert _build(videos, killed, "--shards=4") == 0
    assert digests(killed) == digests(whole)
    assert before == {name: (killed / name).stat().st_mtime_ns for name in written}


def test_build_ended_by_unreachable_storage_resumes(videos, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert _build(videos, whole, "--shards=2") == 0
    write = builder.write_shard

    def unreachable(shard, results, output):
        lost = FileResult(reason=UNREACHABLE, detail="Stale file handle")
        return write(shard, [lost, *itertools.islice(results, len(shard.items) - 1)], output)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_shard", unreachable)
        assert _build(videos, broken, "--shards=2") == 1
    assert "can't be reached (Stale file handle)" in capsys.readouterr().err
    assert _build(videos, broken, "--shards=2") == 0
    assert digests(broken) == digests(whole)


def _ingest_where(item, alive, *, fault: str, path: str, **options):
    """Ingests; the file with this path has a fault while the flag exists."""
    if item.path == path and pathlib.Path(fault).exists():
        if fault.endswith("stopped once"):
            os.remove(fault)
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault.endswith("full"):
            return FileResult(reason="failed", detail="RuntimeError: no locator available")
        time.sleep(600)
    return ingest(item, alive, **options)


def _with_fault(monkeypatch, flag: pathlib.Path, path: str) -> None:
    flag.touch()
    work = functools.partial(_ingest_where, fault=str(flag), path=path)
    monkeypatch.setattr(builder, "ingest", work)


def test_stopped_worker_loses_no_file(videos, tmp_path, monkeypatch):
    assert _build(videos, tmp_path / "whole") == 0
    _with_fault(monkeypatch, tmp_path / "stopped once", "dog/0.mp4")
    assert _build(videos, tmp_path / "out", "--timeout=1", "--workers=2") == 0
    assert not (tmp_path / "stopped once").exists()
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_timed_out_files_are_retried_by_same_command(videos, tmp_path, monkeypatch, capsys):
    out, flag = tmp_path / "out", tmp_path / "hangs"
    _with_fault(monkeypatch, flag, "dog/0.mp4")
    assert _build(videos, out, "--shards=3", "--timeout=1") == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 7 files timed out (first: dog/0.mp4: no progress for 1 s, twice" in message
    report = json.loads((out / "report.json").read_text())
    assert {e["path"]: e["reason"] for e in report["left_out"]} == {
        "dog/0.mp4": "timed out", "cat/text.mp4": "unreadable",
    }  # fmt: skip
    assert "dataset_info.json" not in digests(out)
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord-?????-of-?????")}
    flag.unlink()
    assert _build(videos, out, "--shards=3") == 0
    changed = [p for p, time in times.items() if (out / p).stat().st_mtime_ns != time]
    assert len(changed) == 1  # only the shard of the file is rebuilt
    assert _build(videos, tmp_path / "whole", "--shards=3") == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_shards_with_only_failures_are_rebuilt(videos, tmp_path, monkeypatch):
    """Their cause may be gone: a full disk, for example."""
    _with_fault(monkeypatch, tmp_path / "full", "dog/0.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(builder, "finish", Mock(side_effect=KeyboardInterrupt))
        assert _build(videos, tmp_path / "out", "--shards=7") == 130
    (tmp_path / "full").unlink()
    assert _build(videos, tmp_path / "out", "--shards=7") == 0
    assert _build(videos, tmp_path / "whole", "--shards=7") == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_output_inside_source_is_refused(videos, capsys):
    for output in (videos, videos / "shards"):
        assert _build(videos, output) == 2
        assert "their source: give a folder outside" in capsys.readouterr().err
    assert not (videos / "shards").exists()


def test_build_after_sigkill_resumes(videos, tmp_path):
    """The process is killed when the first shard exists."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "data_pipelines.build", "--dataset=folder", f"--source={videos}",
        f"--output={out}", "--shards=7", "--workers=1", "--modalities=video",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    first = out / "folder-train.tfrecord-00000-of-00007"
    for _ in range(600):
        if first.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _build(videos, out, "--shards=7") == 0
    assert _build(videos, tmp_path / "whole", "--shards=7") == 0
    assert digests(out) == digests(tmp_path / "whole")


def test_finished_build_is_unchanged(videos, tmp_path, capsys):
    assert _build(videos, tmp_path / "out") == 0
    before = digests(tmp_path / "out")
    assert _build(videos, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("6 records") == 2
    assert _build(videos, tmp_path / "out", "--short_side=64") == 2
    assert "has a complete data set already" in capsys.readouterr().err
    assert digests(tmp_path / "out") == before


def test_unfinished_build_with_other_options_is_refused(videos, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_shard", Mock(side_effect=KeyboardInterrupt))
        assert _build(videos, tmp_path / "out") == 130
    assert _build(videos, tmp_path / "out", "--short_side=64") == 2
    assert "short_side 128, now 64" in capsys.readouterr().err
    assert _build(videos, tmp_path / "out", "--shards=2") == 2
    assert "with other files, labels, name or number of shards" in capsys.readouterr().err
    begun = tmp_path / "out" / ".build" / "plan.json"
    begun.write_text(begun.read_text().replace("short_side", "option_of_an_earlier_version"))
    assert _build(videos, tmp_path / "out", "--short_side=64") == 2
    assert "short_side None, now 64" in capsys.readouterr().err


def test_options_set_size_and_rates_of_records(videos, tmp_path):
    options = ["--short_side=32", "--frame_rate=4", "--mels=40", "--waveform", "--name=small"]
    assert _build(videos, tmp_path / "out", *options, "--modalities=audio,video") == 0
    found = metadata.read(str(tmp_path / "out"))
    assert (found.name, found.short_side, found.frame_rate, found.mels) == (
        "small",
        32,
        4.0,
        40,
    )
    source = record_source.TFRecordSource(shard_names.find_shards(str(tmp_path / "out"), "train"))
    record = record_schema.parse(source[0], 40)
    assert (len(record.frames), record.log_mel.shape[0]) == (4, 40)
    assert len(record.waveform) == 16000


def test_build_of_video_alone_has_no_audio(videos, tmp_path):
    assert _build(videos, tmp_path / "out") == 0
    found = metadata.read(str(tmp_path / "out"))
    assert found.sample_rate == 0
    assert found.modalities == ("video",)
    assert found.left_out == {"unreadable": 1}
    silent = open_dataset(Config(modalities=("video",)), str(tmp_path / "out"), "train")
    assert len(silent) == 6
    assert all(silent[i].frames and not silent[i].log_mel.size for i in range(6))
    with pytest.raises(UserError, match=r"has no audio: build it again .*:reconstruction_video"):
        open_dataset(Config(), str(tmp_path / "out"), "train")


def test_build_of_audio_alone_has_no_frames(tmp_path, capsys):
    """The error of a build with both modalities names the option."""
    (tmp_path / "in").mkdir()
    media_files.write(
        tmp_path / "in" / "a.wav", sound=media_files.tone(1.0, 16000), sample_rate=16000
    )
    assert _build(tmp_path / "in", tmp_path / "out", "--modalities=") == 2
    message = capsys.readouterr().err
    assert ": to use those with no video build again with --modalities=audio, or see" in message
    assert _build(tmp_path / "in", tmp_path / "sound", "--modalities=audio") == 0
    sound = open_dataset(Config(modalities=("audio",)), str(tmp_path / "sound"), "train")
    assert sound.metadata.modalities == ("audio",)
    assert (len(sound), len(sound[0].frames), sound[0].log_mel.shape) == (1, 0, (80, 112))


def test_silent_videos_built_with_both_modalities_are_refused_with_the_remedy(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    media_files.write(tmp_path / "in" / "a.mp4", media_files.gray_frames([9] * 30))
    assert _build(tmp_path / "in", tmp_path / "out", "--modalities=") == 2
    message = capsys.readouterr().err
    assert ": to use those with no audio build again with --modalities=video, or see" in message


@pytest.mark.parametrize(
    "options, words",
    [
        (["--short_side=0"], "--short_side=0"),
        (["--max_seconds=-1"], "--max_seconds=-1"),
        (["--min_seconds=nan"], "--min_seconds=nan"),
        (["--timeout=0"], "--timeout=0"),
        (["--modalities=smell"], "--modalities=smell"),
        (["--name=Two Words"], "can't name"),
        (["--dataset=esc50"], "esc50.csv"),
    ],
)
def test_bad_options_are_one_sentence(videos, tmp_path, capsys, options, words):
    assert _build(videos, tmp_path / "out", *options) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert words in message
    assert message.count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_folders_without_videos_are_refused(tmp_path, capsys):
    assert _build(tmp_path / "absent", tmp_path / "out") == 2
    assert "absent is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert _build(tmp_path / "empty", tmp_path / "out") == 2
    assert "has no files" in capsys.readouterr().err
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.mp4").write_text("no video")
    assert _build(tmp_path / "texts", tmp_path / "out") == 2
    assert "None of 1 file of" in capsys.readouterr().err
    assert "dataset_info.json" not in digests(tmp_path / "out")


def test_build_without_records_names_expected_and_found(videos, tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    for k in (1, 2, 3):
        (lists / f"wave_test_split{k}.txt").write_text("b.avi 1\n")
    options = ["--dataset=hmdb51", f"--lists={lists}"]
    assert _build(videos, tmp_path / "out", *options) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "(first: wave/b.avi: it can't be opened" in message
    assert ", and 7 media files in no list (first: cat/0.mp4)" in message


def test_exception_of_program_is_named_before_faults_of_files(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / "in" / name).touch()
    _with_fault(monkeypatch, tmp_path / "full", "c.mp4")
    assert _build(tmp_path / "in", tmp_path / "out") == 2
    assert "(first: c.mp4: RuntimeError: no locator available)" in capsys.readouterr().err


def test_second_build_in_same_folder_is_refused(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "PATIENCE", 0.1)
    catalog = CATALOGS["folder"](Source(str(videos)))
    plan = build_plan.make_plan(str(videos), "folder", catalog, IngestOptions(MediaOptions()), 1)
    with builder.start(plan, str(tmp_path / "out")):
        shutil.rmtree(tmp_path / "out" / ".build")  # as the first build does at its end
        assert _build(videos, tmp_path / "out") == 1
    assert "is being built by another process" in capsys.readouterr().err


def test_data_set_completed_meanwhile_is_not_overwritten(videos, tmp_path, monkeypatch, capsys):
    locked = lease.held_on_disk

    def late(folder, *sentences):
        monkeypatch.setattr(lease, "held_on_disk", locked)
        assert _build(videos, tmp_path / "out") == 0
        return locked(folder, *sentences)

    monkeypatch.setattr(lease, "held_on_disk", late)
    assert _build(videos, tmp_path / "out") == 2
    assert "has a complete data set already" in capsys.readouterr().err


def test_last_of_two_builds_at_one_url_is_refused(videos, monkeypatch, capsys):
    finish = builder.finish

    def late(plan, output):
        storage.remove_folder(f"{output}/.build")
        return finish(plan, output)

    monkeypatch.setattr(builder, "finish", late)
    assert _build(videos, "memory://built_twice") == 2
    assert "another build has ended there: repeat the command" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "shard"])
@pytest.mark.parametrize("number,status", [(errno.ENOSPC, 2), (errno.EIO, 1)])
def test_failed_write_is_one_sentence(videos, tmp_path, monkeypatch, capsys, name, number, status):
    """A full disk needs the user (status 2); an error of the device may be transient (1)."""
    reason = os.strerror(number)
    error = OSError(number, reason, *filter(None, [name]))
    monkeypatch.setattr(builder, "write_shard", Mock(side_effect=error))
    assert _build(videos, tmp_path / "out") == status
    message = capsys.readouterr().err.strip()
    assert f"{name or tmp_path / 'out'} can't be read or written ({reason})" in message
    assert message.count("\n") == 0


def test_output_may_be_a_url(videos):
    assert _build(videos, "memory://built", "--shards=2") == 0
    dataset = open_dataset(Config(modalities=("video",)), "memory://built", "train")
    assert sorted(dataset[i].path for i in range(len(dataset)))[0] == "cat/0.mp4"


@pytest.mark.skipif(not VIDEOS.exists(), reason="the real clips are not installed")
def test_real_videos_are_built_or_left_out_with_a_reason(tmp_path, capsys):
    assert _build(VIDEOS, tmp_path / "out", "--modalities=") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["records"] == {"train": 3}
    reasons = {e["path"]: e["reason"] for e in report["left_out"]}
    assert reasons["mmaction_test.mp4"] == "no audio"
    assert reasons["corrupted.mp4"] in ("no audio", "damaged")
