import errno
import os
import resource
import time

import event_images
import fake_terminal
import numpy as np
import pytest
from failing_calls import system_error

from data_pipelines import terminal
from data_pipelines.progress import ProgressMeter, duration
from xkd_jax.training.logs import event_files
from xkd_jax.training.logs.progress import Progress, Scalars, loss_terms


@pytest.mark.parametrize(
    "seconds,text",
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (600, "10 min"),
        (3 * 3600 + 240, "3 h 04 min"),
        (53 * 3600, "2 d 05 h"),
        (float("inf"), "unknown"),
    ],
)
def test_durations_are_printed_in_suitable_units(seconds, text):
    assert duration(seconds) == text


def test_line_has_speed_since_line_before(monkeypatch):
    clock = iter([0.0, 2.0, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    progress = Progress(steps=100, batch_size=8, start=10)
    line, scalars = progress.line(20, {"loss": 1.5}, 0.5)
    assert scalars == {"speed/clips_per_second": 40.0, "speed/data_wait_fraction": 0.25}
    assert line == "step  20/100  loss 1.5000  40 clips/s  data wait 25%  left 16 s"
    _, scalars = progress.line(22, {"loss": 1.0}, 0.0)
    assert scalars == {"speed/clips_per_second": 8.0, "speed/data_wait_fraction": 0.0}


TERMS = {
    "loss/reconstruct_video": 1.04, "loss/reconstruct_audio": 0.98765,
    "loss/distill_video_to_audio": 5.2, "loss/align_students": 0.0123,
}  # fmt: skip


def test_loss_terms_are_grouped_by_kind():
    text = "reconstruct video 1.04 audio 0.988, distill video to audio 5.2, align students 0.0123"
    assert loss_terms({"loss": 6.0, "schedule/ema": 1.0, **TERMS}) == text
    assert loss_terms({"loss": 6.0}) == ""


def test_line_ends_with_loss_terms(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    progress = Progress(steps=100, batch_size=8, start=0, enabled=False)
    line, _ = progress.line(1, {"loss": 1.5, "loss/align_students": 0.5}, 0.0)
    assert line.endswith("  align students 0.5")


def test_time_before_first_step_does_not_count(monkeypatch):
    clock = iter([0.0, 60.0, 62.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    progress = Progress(steps=100, batch_size=8, start=10)
    progress.running()
    _, scalars = progress.line(11, {"loss": 1.5}, 0.0)
    assert scalars == {"speed/clips_per_second": 4.0, "speed/data_wait_fraction": 0.0}


def test_step_is_shown_every_ten_seconds_between_lines(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    terminal.print_text("begin")
    progress = Progress(steps=100, batch_size=8, start=0)
    with progress.running():
        for step in range(1, 9):
            now[0] = 4.0 * step
            progress.reached(step, {"loss": np.float32(0.25 * step), "loss/align_students": 0.5})
    assert capsys.readouterr().out.splitlines()[1:] == [
        "step   3/100  loss 0.7500  align students 0.5  left 6 min",
        "step   6/100  loss 1.5000  align students 0.5  left 6 min",
    ]


def test_terminal_shows_steps_as_progress_bar(monkeypatch):
    out = fake_terminal.use(monkeypatch)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(steps=100, batch_size=8, start=0)
    with progress.running():
        for step in range(1, 51):
            now[0] = 1.0 * step
            progress.reached(step, {"loss": np.float32(0.5), "loss/align_students": 0.5})
    assert out.in_place()[-1].startswith("step 50/100 |██████████          | ")
    assert out.in_place()[-1].endswith(", loss 0.5000  align students 0.5")
    assert out.screen() == []


def test_meter_is_due_once_per_interval(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = ProgressMeter("features  train clip", 100, "clips", start=20)
    due = []
    for now[0] in (1.0, 9.0, 11.0, 12.0, 21.5):
        due.append(meter.is_due())
    assert due == [False, False, True, False, True]
    now[0] = 40.0
    assert meter.line(60) == "features  train clip 60/100  1 clips/s  left 40 s"
    assert meter.line(20) == "features  train clip 20/100  0 clips/s  left unknown"


def test_jumping_system_clock_does_not_change_speed(monkeypatch):
    jumps = iter([1e9, 0.0, 2e9, 5.0])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    progress = Progress(steps=100, batch_size=8, start=0)
    _, scalars = progress.line(1, {"loss": 1.0}, 0.0)
    assert 0 < scalars["speed/clips_per_second"] < float("inf")
    line, _ = progress.line(50, {"loss": 1.0}, 0.0)
    assert line.endswith("left 0 s")


def test_only_writing_process_creates_event_files(tmp_path):
    for enabled in (False, True):
        scalars = Scalars(tmp_path / str(enabled), enabled=enabled, start=0)
        scalars.write(1, {"loss": 1.0})
        scalars.close()
    assert not (tmp_path / "False").exists()
    assert list((tmp_path / "True").glob("events*"))


def _make(obstacle, directory, monkeypatch):
    if obstacle == "a file":
        directory.write_text("", encoding="utf-8")
    elif obstacle == "below a file":
        directory.parent.rmdir()
        directory.parent.write_text("", encoding="utf-8")
    else:
        call, number = {"full": ("fsync", errno.ENOSPC), "quota": ("fsync", errno.EDQUOT),
                        "stale": ("fsync", errno.ESTALE)}[obstacle]  # fmt: skip
        monkeypatch.setattr(os, call, system_error(number))


@pytest.mark.parametrize("obstacle", ["a file", "below a file", "full", "quota", "stale"])
def test_unwritable_scalars_are_reported_once(tmp_path, monkeypatch, capsys, obstacle):
    directory = tmp_path / "run" / "tensorboard"
    directory.parent.mkdir()
    _make(obstacle, directory, monkeypatch)
    scalars = Scalars(directory, enabled=True, start=0)
    for step in (1, 2, 3):
        scalars.write(step, {"loss": 1.0})
    scalars.close()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"{directory} can't be written to (" in printed


def test_partial_event_does_not_hide_later_events(tmp_path, capsys):
    """A full disk writes a part of an event; later there is space again."""
    scalars = Scalars(tmp_path / "tensorboard", enabled=True, start=0)
    scalars.write(1, {"loss": 1.0})
    (file,) = (tmp_path / "tensorboard").iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 9, limits[1]))
    try:
        scalars.write(2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "can't be written to (" in capsys.readouterr().err
    scalars.write(3, {"loss": 3.0})
    scalars.close()
    assert event_files.scalars(tmp_path) == {1: {"loss": 1.0}, 3: {"loss": 3.0}}


def test_texts_precede_scalars_and_are_none_of_them(tmp_path):
    scalars = Scalars(tmp_path / "tensorboard", enabled=True, start=4, texts={"config": "| a |"})
    scalars.write(5, {"loss": 1.0})
    scalars.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert file.read_bytes().count(b"| a |") == 1
    assert event_files.scalars(tmp_path) == {5: {"loss": 1.0}}


def test_images_are_written_exactly_and_are_no_scalars(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    scalars = Scalars(tmp_path / "tensorboard", enabled=True, start=0)
    scalars.draw(3, {"reconstruction/video": image})
    scalars.write(3, {"loss": 1.0})
    scalars.close()
    np.testing.assert_array_equal(event_images.images(tmp_path)[3]["reconstruction/video"], image)
    assert event_files.scalars(tmp_path) == {3: {"loss": 1.0}}
