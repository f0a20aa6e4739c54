"""Parts of the soak, with programs that take milliseconds in place of a run."""

import http.server
import random
import signal
import sys
import threading
import time

import numpy as np
import pytest
import tiny_state

from benchmarks.emulators.fault_proxy import Proxy
from benchmarks.soak import __main__ as command
from benchmarks.soak import faults, faulty_run, process_faults, store_faults
from benchmarks.soak.faults import Fault
from benchmarks.soak.process_faults import CUT, FLIPPED
from benchmarks.soak.program import End, Program
from benchmarks.soak.record import Record
from benchmarks.soak.situation import Situation
from xkd_jax.parallel import mesh
from xkd_jax.training import train

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
# The same, with a lease: a file that names the last start.
LEASED = """
import os, pathlib, sys, time
steps, lease = int(sys.argv[1]), pathlib.Path(sys.argv[2]).with_name("lease")
lease.write_text(str(os.getpid()))
for step in range(1, steps + 1):
    time.sleep(0.005)
    if lease.read_text() != str(os.getpid()):
        sys.exit("The folder was taken over by another process")
    print(f"step {step}/{steps}  loss 1", flush=True)
"""
# The same, with a request to a store before each step.
REQUESTS = """
import sys, time, urllib.error, urllib.request
steps, url = int(sys.argv[1]), sys.argv[3]
step = 0
while step < steps:
    time.sleep(0.005)
    try:
        urllib.request.urlopen(f"{url}/o/d/a", timeout=0.2).read()
    except urllib.error.HTTPError as error:
        if error.code in (400, 403):
            sys.exit("denied: check the credentials and the permissions")
    except Exception:
        continue
    step += 1
    print(f"step {step}/{steps}  loss 1", flush=True)
"""
ONCE = "tried = file.with_name('tried'); first = not tried.exists(); tried.touch(); first and "
SIGNALS = {name: faults.OF_PROCESSES[name] for name in ("killed", "preempted")}


def starter(folder, record, at_30="", program=PROGRAM):
    """Returns a function that starts a program."""
    code = [sys.executable, "-S", "-c", program, str(STEPS), str(folder / "steps"), at_30]
    return lambda: Program(code, STEPS, record, {})


def disturbed(folder, at_30="", due=(), kinds=SIGNALS, program=PROGRAM, proxy=None) -> Record:
    record, draw = Record(folder, "disturbed"), random.Random(3)
    start = starter(folder, record, at_30, program)
    faults.disturb(
        lambda: Situation(start, folder / "disturbed", STEPS, draw, proxy),
        kinds, list(due), STEPS, record, pause=0.01,
    )  # fmt: skip
    return record


def unexpected(record):
    """{end that no fault explains: count}."""
    return {
        name.removeprefix(faults.UNEXPECTED): often
        for name, often in record.events().items()
        if name.startswith(faults.UNEXPECTED)
    }


def test_run_is_restarted_after_each_fault_until_it_ends(tmp_path):
    due = [(5, "killed"), (20, "preempted"), (21, "killed"), (40, "preempted")]
    record = disturbed(tmp_path, due=due)
    assert record.reached() == STEPS
    assert record.events() == {"started": 5, "killed": 2, "preempted": 2}


@pytest.mark.parametrize("steps", [100, 2000])
def test_every_fault_is_scheduled_and_more_often_in_longer_runs(steps):
    kinds = {**faults.OF_PROCESSES, **faults.OF_FOLDERS, **faults.OF_STORES}
    due = faults.schedule(kinds, steps, seed=1)
    assert due == sorted(due) == faults.schedule(kinds, steps, seed=1)
    assert due != faults.schedule(kinds, steps, seed=2)
    assert all(1 <= step <= 0.9 * steps for step, _ in due)
    often = {name: [n for _, n in due].count(name) for name in kinds}
    assert often == {n: fault.times if steps == 2000 else 1 for n, fault in kinds.items()}


def test_fault_without_its_target_is_tried_again_later(tmp_path):
    tried = []

    def fail_once(at):
        tried.append(at.program.step)
        return len(tried) > 1

    record = disturbed(tmp_path, due=[(10, "late")], kinds={"late": Fault(fail_once, 1)})
    first, second = tried
    assert first >= 10
    assert second >= first + 20
    assert record.events() == {"started": 1, "late": 1}


@pytest.mark.parametrize(
    "at_30,found,reached",
    [
        (ONCE + "sys.exit(1)", {"status 1": 1}, STEPS),
        (ONCE + "sys.exit(134)", {"status 134": 1}, STEPS),
        (ONCE + "__import__('os').abort()", {"status -6": 1}, STEPS),
        ("sys.exit(1)", {"status 1": 1 + faults.MOST_VAIN_STARTS}, 30),
        ("sys.exit(2)", {"status 2": 1}, 30),
    ],
)
def test_end_without_fault_is_recorded(tmp_path, at_30, found, reached):
    """A single unexpected end leads to a restart; repeated ones end the soak."""
    record = disturbed(tmp_path, at_30)
    assert unexpected(record) == found
    assert record.reached() == reached


def test_run_without_steps_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "STUCK", 1.0)
    record = disturbed(tmp_path, ONCE + "time.sleep(600)")
    assert record.reached() == STEPS
    assert record.events()[f"{faults.UNEXPECTED}no step in 1 s"] == 1


def test_stopped_start_must_end_when_another_has_its_lease(tmp_path):
    kinds = {"taken over": faults.OF_PROCESSES["stopped, and its lease taken over"]}
    record = disturbed(tmp_path, due=[(10, "taken over")], kinds=kinds, program=LEASED)
    assert record.events() == {"started": 2, "taken over": 1}


def test_stopped_start_that_writes_on_is_recorded(tmp_path):
    ends_otherwise = LEASED.replace("The folder was taken over", "lost")
    kinds = {"taken over": faults.OF_PROCESSES["stopped, and its lease taken over"]}
    record = disturbed(tmp_path, due=[(10, "taken over")], kinds=kinds, program=ends_otherwise)
    assert unexpected(record) == {"status 1": 1}


@pytest.fixture(scope="module")
def server():
    """URL of a server that answers every request with the same content."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.mark.parametrize("name", faults.OF_STORES)
def test_store_has_the_fault_and_is_repaired(tmp_path, monkeypatch, server, name):
    monkeypatch.setattr(store_faults, "LOST", 0.1)
    monkeypatch.setattr("benchmarks.emulators.fault_proxy.SLOW", 0.01)
    proxy = Proxy(server)
    record = disturbed(
        tmp_path, proxy.url, [(10, name)], faults.OF_STORES, REQUESTS, proxy
    )  # fmt: skip
    ends = name in ("expired credentials", "stalled arrays")
    assert record.events() == {"started": 1 + ends, name: 1}
    assert (set(proxy.seen) - {""} == set()) == (name == "removals denied")
    assert proxy.choose("GET", "/o/d/a") == proxy.choose("DELETE", "/o/d/a") == ""


def test_faults_inside_of_the_program_happen_once(monkeypatch):
    monkeypatch.setattr(mesh, "put_batch", lambda batch: batch)
    monkeypatch.setattr(train, "compile_step", lambda step, advice: step)
    monkeypatch.setattr(time, "time", lambda: 5.0)
    asked = faulty_run.Asked()
    faulty_run.inject(asked)
    state, batch = tiny_state.fill(1), {"audio": {"global": {"gain": np.ones(2)}}}
    advance = train.compile_step(lambda state, batch: state, advice=None)
    tiny_state.assert_same(advance(state, batch), state)
    asked.ask_bit()
    words = np.asarray(state.student["w"]).view(np.uint32)
    changed = np.asarray(advance(state, batch).student["w"]).view(np.uint32) ^ words
    assert np.count_nonzero(changed) == 1
    assert changed.max().bit_count() == 1
    tiny_state.assert_same(advance(state, batch), state)
    asked.ask_batch()
    assert np.isnan(mesh.put_batch(batch)["audio"]["global"]["gain"]).all()
    batch["audio"]["global"]["gain"] = np.ones(2)
    assert np.isfinite(mesh.put_batch(batch)["audio"]["global"]["gain"]).all()
    asked.move_clock()
    assert time.time() == 5 + faulty_run.JUMP
    asked.move_clock()
    assert time.time() == 5


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


@pytest.mark.parametrize(
    "script,expected",
    [
        ("echo why; exit 2", True),
        ("echo what; exit 2", False),
        ("echo why; exit 1", False),
        ("echo why; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo; done; exit 2", False),
    ],
)
def test_end_by_status_and_last_lines(tmp_path, script, expected):
    with Program(["sh", "-c", script], 5, Record(tmp_path, "alone"), {}) as program:
        program.expect(End(2, "why"))
        assert program.ended(60)
        assert program.is_expected_end() is expected


@pytest.mark.parametrize("damage", [FLIPPED, CUT])
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_to_one_file_of_newest_checkpoint(tmp_path, seed, damage):
    draw, written = random.Random(seed), {}
    for name in ("9", "10", "10.damaged", "11.tmp"):
        for file in ("a", "b/c"):
            path = tmp_path / "checkpoints" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written.setdefault(path, draw.randbytes(50)))
    assert process_faults.damage_newest(tmp_path, damage, draw)
    ((path, before),) = ((p, old) for p, old in written.items() if p.read_bytes() != old)
    after = path.read_bytes()
    assert path.is_relative_to(tmp_path / "checkpoints" / "10")
    if damage == FLIPPED:
        bits = np.bitwise_xor(*(np.frombuffer(b, np.uint8) for b in (before, after)))
        assert np.unpackbits(bits).sum() == 1
    else:
        assert len(after) < len(before)
        assert before.startswith(after)


@pytest.mark.parametrize("names", [(), ("20",), ("20", "40.damaged")])
def test_only_checkpoint_is_not_damaged(tmp_path, names):
    (tmp_path / "checkpoints").mkdir()
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "a").write_text("whole")
    assert not process_faults.damage_newest(tmp_path, CUT, random.Random(0))
    assert all(file.read_text() == "whole" for file in tmp_path.rglob("a"))


@pytest.mark.parametrize(
    "argument,message",
    [
        ("--steps=0", "--steps=0: give 1 or more"),
        ("--step=9", "unrecognized arguments"),
        ("--place=gs", "give another --output"),  # it is of a soak in a folder
        ("--table=nowhere", "can't be read as the report of a soak"),
        ("--seed=1", "give another --output"),  # the folder is of a soak with another seed
        ("--steps=9", "give another --output"),
    ],
)
def test_bad_arguments_are_refused_at_start(tmp_path, capsys, monkeypatch, argument, message):
    monkeypatch.setattr(command, "soak", lambda *_: pytest.fail("it has started"))
    (tmp_path / "settings.json").write_text('{"place": "folder", "steps": 2000, "seed": 0}')
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
