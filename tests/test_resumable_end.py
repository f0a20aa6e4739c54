"""SIGTERM in every phase of a command, of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.errors import EXIT_RESUMABLE

ROOT = Path(__file__).parents[1]

# A command whose main thread is in a call that Python's handlers of signals wait for, as they do
# for a compilation. (The signal is kept from that thread, so that it does not cut the call short.)
COMMAND = """
import contextlib, ctypes, os, pathlib, signal, sys, threading
from data_pipelines import lease, resumable_end
resumable_end.PATIENCE = 0.05
folder = pathlib.Path(sys.argv[1])
def hang():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("open", flush=True)
    ctypes.CDLL(None).sleep(60)
def save():
    (folder / "saved").touch()
with resumable_end.on_request(), lease.held(folder, "busy", "wait"):
    BODY
"""
BODIES = {
    "anywhere": "hang()",
    "compilation": """
    with resumable_end.deferred(), resumable_end.allowed("while compiling the step"):
        hang()""",
    "probe": """
    with resumable_end.deferred(), resumable_end.allowed("in the probe after step 3", save):
        hang()""",
    "before": """
    with resumable_end.deferred():
        print("open", flush=True)
        while not resumable_end.is_requested():
            pass
        with resumable_end.allowed("while compiling the step"):
            hang()""",
    "error": """
    with resumable_end.deferred():
        print("open", flush=True)
        while not resumable_end.is_requested():
            pass
    raise ValueError("another process is lost, for example")""",
}
WORDS = {
    "probe": "in the probe after step 3",
    "compilation": "while compiling the step",
    "before": "while compiling the step",
}


@pytest.mark.parametrize("phase", BODIES)
def test_sigterm_ends_command_with_75_and_without_lease(tmp_path, phase):
    running = subprocess.Popen(
        [sys.executable, "-c", COMMAND.replace("BODY", BODIES[phase]), tmp_path], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with running:
        assert running.stdout.readline() == "open\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == EXIT_RESUMABLE
        where = WORDS.get(phase, "outside the training steps")
        assert (
            running.stderr.read()
            == f"stopped   {where}, as requested: run the same command again to resume.\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["saved"] * (phase == "probe")


SENT_TO_CHILD = """
import os, signal
from data_pipelines import resumable_end
with resumable_end.on_request():
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, b"1")
        signal.pause()
    os.read(read, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert not resumable_end.is_requested()
print("ended")
"""


def test_sigterm_to_forked_process_ends_that_one_only():
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SENT_TO_CHILD], cwd=ROOT, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (0, "ended\n"), found.stderr


@pytest.mark.parametrize(
    "module,arguments",
    [
        ("data_pipelines.build", ("--dataset=folder", "--source={0}", "--output={0}/../out")),
        ("xkd_jax", ("--config=configs/demo.py", "--workdir={0}/run")),
        ("xkd_jax", ("--config=configs/eval/knn.py", "--config.checkpoint={0}",
                     "--config.data.dir={0}", "--workdir={0}/knn", "--watch=60")),
    ],
)  # fmt: skip
def test_commands_are_ended_by_sigterm_during_their_first_work(tmp_path, module, arguments):
    """The command ends during its first work, the reading of a pipe without end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"""
import runpy, signal, sys
from data_pipelines import activity
def enter(self):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("open", flush=True)
    open({str(pipe)!r}).read()
activity.Activity.__enter__ = enter
sys.argv[0] = "main.py"
runpy.run_module({module!r}, run_name="__main__")
"""
    given = [argument.format(tmp_path) for argument in arguments]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *given], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with running:
        assert "open\n" in iter(running.stdout.readline, "")
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == EXIT_RESUMABLE
        assert running.stderr.read().startswith("stopped   outside the training steps, as requ")


SAVED = """
from data_pipelines import resumable_end
from data_pipelines.errors import StoppedError
from xkd_jax.training.faults.preemption import Preemption
import os, signal, sys
try:
    with resumable_end.on_request():
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGTERM)
            while not (preemption.reached() and resumable_end.is_requested()):
                pass
            raise StoppedError("saved")
except StoppedError as stopped:
    sys.exit(str(stopped))
"""


def test_loop_that_has_saved_ends_the_command_itself():
    found = subprocess.run(
        [sys.executable, "-c", SAVED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (found.returncode, found.stderr) == (1, "saved\n")
