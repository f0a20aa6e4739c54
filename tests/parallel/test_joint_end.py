"""SIGTERM to one of two processes, of which one compiles and the other waits for it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from coordinator import free_port

from data_pipelines.errors import EXIT_RESUMABLE

PROCESS = """
import ctypes, signal, sys
from data_pipelines import resumable_end
address, index, compiling = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with resumable_end.on_request():
    import jax
    from jax.experimental import multihost_utils
    from xkd_jax.parallel import processes
    processes.start(address, 2, index)
    multihost_utils.sync_global_devices("both are here")
    print("\\nopen", flush=True)  # after a line of Gloo, which may lack its end still
    if compiling < 0:
        sys.exit()
    with resumable_end.deferred():
        if index == compiling:
            with resumable_end.allowed("while compiling the step"):
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                ctypes.CDLL(None).sleep(60)
        multihost_utils.sync_global_devices("a step")
"""


def start(compiling):
    address = f"localhost:{free_port()}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(index), str(compiling)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in (0, 1)
    ]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("compiling", [0, 1])
def test_sigterm_to_either_process_ends_both_with_75(compiling):
    both = start(compiling)
    try:
        for process in both:
            opened = "open\n" in iter(process.stdout.readline, "")
            assert opened, process.communicate(timeout=30)
        both[1].send_signal(signal.SIGTERM)
        assert [process.wait(30) for process in both] == [EXIT_RESUMABLE] * 2
        errors = [process.stderr.read() for process in both]
    finally:
        for process in both:
            process.kill()
    assert "stopped   while compiling the step, as requested: run the" in errors[compiling]
    assert "stopped   with another process of the run, as requested: " in errors[1 - compiling]


@pytest.mark.slow
def test_processes_that_follow_each_other_end_in_order():
    assert [process.wait(30) for process in start(-1)] == [0, 0]
