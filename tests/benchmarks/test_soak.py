"""Parts of the soak, with programs that take milliseconds in place of a run."""

import random
import signal
import sys
import time

import numpy as np
import pytest
import tensorboardX

from benchmarks.soak import __main__ as command
from benchmarks.soak import faults, saved
from benchmarks.soak.program import Program
from benchmarks.soak.record import Record
from benchmarks.soak.report import Comparison, report

STEPS = 60
# Resumes from the steps in a file; SIGTERM ends it with 75; at step 30 it runs the given code.
PROGRAM = """
import pathlib, signal, sys, time
steps, file, at_30 = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
step = file.stat().st_size if file.exists() else 0
while step < steps:
    time.sleep(0.005)
    if step == 30 and at_30:
        exec(at_30)
    step += 1
    print(f"step {step}/{steps}  loss 1", flush=True)
    with file.open("a") as opened:
        opened.write(".")
"""
ONCE = "tried = file.with_name('tried'); first = not tried.exists(); tried.touch(); first and "


def disturbed(folder, at_30="", seed=3) -> Record:
    record = Record(folder, "disturbed")
    command = [sys.executable, "-S", "-c", PROGRAM, str(STEPS), str(folder / "steps"), at_30]
    faults.disturb(
        lambda: Program(command, STEPS, record, {}),
        folder / "disturbed", STEPS, record, random.Random(seed), pause=(0.005, 0.05),
    )  # fmt: skip
    return record


def test_run_is_restarted_after_each_fault_until_it_ends(tmp_path):
    record = disturbed(tmp_path)
    events = record.events()
    assert record.reached() == STEPS
    ended = events.get("killed", 0) + events.get("preempted", 0)
    # a signal at the last step may arrive after the end of the run
    assert 1 < events["started"] in (ended, ended + 1)
    assert not [name for name in events if name.startswith(faults.UNEXPECTED)]


@pytest.mark.parametrize(
    "at_30,unexpected,reached",
    [
        (ONCE + "sys.exit(1)", {"status 1": 1}, STEPS),
        (ONCE + "sys.exit(134)", {"status 134": 1}, STEPS),
        (ONCE + "__import__('os').abort()", {"status -6": 1}, STEPS),
        ("sys.exit(1)", {"status 1": 1 + faults.MOST_VAIN_STARTS}, 30),
        ("sys.exit(2)", {"status 2": 1}, 30),
    ],
)
def test_end_without_fault_is_recorded(tmp_path, monkeypatch, at_30, unexpected, reached):
    """A single unexpected end leads to a restart; repeated ones end the soak."""
    monkeypatch.setattr(faults, "FAULTS", {"nothing": lambda *_: False})
    monkeypatch.setattr(faults, "WEIGHTS", (1,))
    record = disturbed(tmp_path, at_30)
    found = {
        name.removeprefix(faults.UNEXPECTED): often
        for name, often in record.events().items()
        if name.startswith(faults.UNEXPECTED)
    }
    assert found == unexpected
    assert record.reached() == reached


def test_run_without_steps_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "FAULTS", {"nothing": lambda *_: False})
    monkeypatch.setattr(faults, "WEIGHTS", (1,))
    monkeypatch.setattr(faults, "STUCK", 1.0)
    record = disturbed(tmp_path, ONCE + "time.sleep(600)")
    assert record.reached() == STEPS
    assert record.events()[f"{faults.UNEXPECTED}no step in 1 s"] == 1


def test_stopped_soak_resumes_with_its_records(tmp_path):
    for steps in range(1, 5):
        Record(tmp_path, "alone").note_memory(steps, 100 * steps, steps)
        Record(tmp_path, "alone").note_event(steps, "started")
        Record(tmp_path, "alone").note_seconds(30)
    record = Record(tmp_path, "alone")
    assert record.reached() == 4
    assert record.events() == {"started": 4}
    assert record.minutes() == 2
    assert record.memory(4) == {
        "main process": [100, 200, 300, 400], "largest worker": [1, 2, 3, 4],
    }  # fmt: skip


SAVES = "trap 'exit 75' TERM; "


@pytest.mark.parametrize(
    "script,last_step,numbers,expected",
    [
        ("exit 0", 0, [], True),
        ("exit 1", 0, [], False),
        ("exit 2", 0, [], False),
        ("exit 75", 0, [], False),  # no signal was sent
        ("kill -9 $$", 0, [], False),  # no SIGKILL was sent
        (SAVES + "wait", 3, [signal.SIGTERM], True),
        ("trap 'exit 1' TERM; wait", 3, [signal.SIGTERM], False),
        ("wait", 3, [signal.SIGTERM], False),  # it ended without saving
        ("wait", 5, [signal.SIGTERM], True),  # after its last step
        ("wait", 3, [signal.SIGKILL], True),
        (SAVES + "wait", 3, [signal.SIGTERM, signal.SIGKILL], True),
    ],
)
def test_expected_ends_by_signal(tmp_path, script, last_step, numbers, expected):
    waits = "while :; do sleep 0.01; done"
    command = ["sh", "-c", f"echo step {last_step}/5; " + script.replace("wait", waits)]
    if "trap" in script:  # before its first line is read
        trap, _, rest = script.partition("; ")
        command[2] = f"{trap}; echo step {last_step}/5; " + rest.replace("wait", waits)
    with Program(command, 5, Record(tmp_path, "alone"), {}) as program:
        deadline = time.monotonic() + 60
        while program.step != last_step:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for number in numbers:
            program.send(number)
        assert program.ended(60)
        assert program.is_expected_end() is expected


def test_program_ends_with_context(tmp_path):
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with Program(["sleep", "600"], 5, Record(tmp_path, "alone"), {}) as program:
            raise KeyboardInterrupt
    assert program.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(8))
def test_damage_is_to_one_file_of_newest_checkpoint(tmp_path, seed):
    draw, written = random.Random(seed), {}
    for name in ("9", "10", "10.damaged", "11.tmp"):
        for file in ("a", "b/c"):
            path = tmp_path / "checkpoints" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written.setdefault(path, draw.randbytes(50)))
    damage = faults.damage_newest(tmp_path, draw)
    assert damage in faults.DAMAGES
    ((path, before),) = ((p, old) for p, old in written.items() if p.read_bytes() != old)
    after = path.read_bytes()
    assert path.is_relative_to(tmp_path / "checkpoints" / "10")
    if damage == "bit flipped":
        bits = np.bitwise_xor(*(np.frombuffer(b, np.uint8) for b in (before, after)))
        assert np.unpackbits(bits).sum() == 1
    else:
        assert before.startswith(after)


@pytest.mark.parametrize("names", [(), ("20",), ("20", "40.damaged")])
def test_only_checkpoint_is_not_damaged(tmp_path, names):
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "a").write_text("whole")
    assert faults.damage_newest(tmp_path, random.Random(0)) == ""
    assert all(file.read_text() == "whole" for file in tmp_path.rglob("a"))


@pytest.mark.parametrize(
    "expected,found,text,equal",
    [
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, "2 compared, 0 differ, 0 missing", True),
        ({"a": np.nan}, {"a": np.nan}, "1 compared, 0 differ, 0 missing", True),
        ({"a": 0.0}, {"a": -0.0}, "1 compared, 1 differ, 0 missing (such as a)", False),
        ({1: 1.0, 2: 2.0}, {1: 1.0}, "1 compared, 0 differ, 1 missing (such as 2)", False),
        ({1: 1.0}, {1: 1.0, 2: 2.0}, "1 compared, 0 differ, 1 missing (such as 2)", False),
        (
            {"a": np.float32(1)}, {"a": np.float64(1)},
            "1 compared, 1 differ, 0 missing (such as a)", False,
        ),
        ({}, {}, "0 compared, 0 differ, 0 missing", False),
    ],
)  # fmt: skip
def test_comparison_is_bitwise(expected, found, text, equal):
    comparison = Comparison.of(expected, found)
    assert str(comparison) == text
    assert comparison.equal is equal


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Records of two runs of two steps; (array, losses, event of the disturbed) -> report."""

    def make(array=1.0, losses=(0.5, 0.25), event="killed"):
        records = [Record(tmp_path, "alone"), Record(tmp_path, "disturbed")]
        for record, values in zip(records, ((0.5, 0.25), losses), strict=True):
            with tensorboardX.SummaryWriter(str(tmp_path / record.name / "tensorboard")) as writer:
                for step, value in enumerate(values, 1):
                    writer.add_scalar("loss", value, step)
            record.note_memory(1, 700, 200)
        for name in ("started", event, "started", "bit flipped", "worker hung"):
            records[1].note_event(1, name)
        (tmp_path / "disturbed" / "checkpoints" / "1.damaged").mkdir(parents=True)
        arrays = {"alone": {"w": np.float32(1)}, "disturbed": {"w": np.float32(array)}}
        monkeypatch.setattr(saved, "arrays", lambda workdir, step: arrays[workdir.name])
        return report(tmp_path, 2, *records)

    return make


def test_report_has_every_figure(both):
    text, passed = both()
    assert passed
    for line in (
        "result       passed",
        "starts       2",
        "kills        1",
        "preemptions  0",
        "workers      0 killed, 1 hung",
        "checkpoints  1 with a bit flipped, 0 with a file cut off; 1 found damaged and set aside",
        "unexpected   nothing",
        "arrays       1 compared, 0 differ, 0 missing",
        "losses       2 compared, 0 differ, 0 missing",
    ):
        assert line in text.splitlines()
    for row in ("alone, main process", "alone, largest worker", "disturbed, main process"):
        assert f"MB at most in each quarter, {row}" in text


@pytest.mark.parametrize(
    "fault",
    [
        {"array": 2.0},
        {"losses": (0.5, 0.5)},
        {"losses": (0.5,)},
        {"event": f"{faults.UNEXPECTED}status 1"},
    ],
)
def test_report_of_runs_that_differ_fails(both, fault):
    text, passed = both(**fault)
    assert not passed
    assert "result       FAILED" in text.splitlines()


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--steps=0", "--steps=0: give 1 or more"),
        ("--step=9", "unrecognized arguments"),
        ("--seed=1", "give another --output"),  # the folder is of a soak with another seed
        ("--steps=9", "give another --output"),
    ],
)
def test_bad_arguments_are_refused_at_start(tmp_path, capsys, monkeypatch, argument, message):
    monkeypatch.setattr(command, "soak", lambda *_: pytest.fail("it has started"))
    (tmp_path / "settings.json").write_text('{"steps": 2000, "seed": 0}')
    with pytest.raises(SystemExit) as ended:
        command.main([f"--output={tmp_path}", argument])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("passed,status", [(True, 0), (False, 1)])
def test_exit_status_is_result(tmp_path, monkeypatch, passed, status):
    monkeypatch.setattr(command, "soak", lambda *_: passed)
    for _ in range(2):  # once more in the same folder
        with pytest.raises(SystemExit) as ended:
            command.main([f"--output={tmp_path}"])
        assert ended.value.code == status


def test_run_without_faults_that_fails_ends_soak(tmp_path):
    record = Record(tmp_path, "alone")
    with pytest.raises(SystemExit, match=r"failed: see the end of .*alone\.log"):
        command.leave_alone(lambda: Program(["false"], 5, record, {}), 5, record)
