import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading

import noise_shards
import pytest
import tiny_state
from coordinator import free_port

from data_pipelines.errors import EXIT_INTERRUPTED, EXIT_RESUMABLE, StoppedError
from data_pipelines.read.dataset import open_dataset
from xkd_jax.training import run_probes
from xkd_jax.training import train as training
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders
from xkd_jax.training.faults.preemption import STOPPING, Preemption
from xkd_jax.training.logs import goodput_file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_preempted_run_saves_and_resumes_with_identical_state(
    tmp_path, workdir, number, monkeypatch, capsys
):
    config = noise_shards.config(tmp_path / "shards", **{"checkpoint.every_steps": 0})
    dataset = open_dataset(config, config.data.dir, "train")
    put, seen = training.mesh_lib.put_batch, []

    def put_and_signal(*args):
        seen.append(1)
        if len(seen) == 4:  # the batch of step 4 is read before step 3 is dispatched
            os.kill(os.getpid(), number)
        return put(*args)

    def go(folder):
        run = tiny_state.run(config, 7)
        with Checkpoints(
            folder / "checkpoints", config, len(dataset), dataset.digest
        ) as checkpoints:
            state = training.first_state(run, checkpoints)
            return training.loop(config, run, state, dataset, checkpoints, folder, None)

    whole = go(workdir / "whole")
    monkeypatch.setattr(training.mesh_lib, "put_batch", put_and_signal)
    with pytest.raises(StoppedError, match=r"after step 3, as requested.*run the same"):
        go(workdir / "stopped")
    tiny_state.assert_same(go(workdir / "stopped"), whole)
    assert "resume    from step 3" in capsys.readouterr().out


@pytest.mark.parametrize("probes", [False, True])
def test_signal_during_last_save_does_not_abort_it(tmp_path, workdir, monkeypatch, probes):
    changes = {"checkpoint.every_steps": 0, "probe.enabled": probes}
    config = noise_shards.config(tmp_path / "shards", **changes)
    dataset = open_dataset(config, config.data.dir, "train")
    run, save = tiny_state.run(config, 2), Checkpoints.save

    def save_and_signal(*args):
        save(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", save_and_signal)
    to_come = pytest.raises(StoppedError, match="after step 2, as requested")
    folder = workdir / "checkpoints"
    with Checkpoints(folder, config, len(dataset), dataset.digest) as checkpoints:
        state = training.first_state(run, checkpoints)
        with to_come if probes else contextlib.nullcontext():
            training.loop(config, run, state, dataset, checkpoints, workdir, None)
        # leaving the block would wait too, as it did in the loop before signals ended the process
        assert step_folders(folder) == [folder / "2"]


@pytest.mark.parametrize("last", [False, True])
def test_signal_in_probe_ends_it_before_its_next_batch(tmp_path, monkeypatch, capsys, last):
    """The state is saved after the next step. After the last step the probe is completed."""
    changes = {"checkpoint.every_steps": 0, "probe.knn_every": 2, "probe.enabled": False}
    config = noise_shards.config(tmp_path / "shards", **changes)
    dataset = open_dataset(config, config.data.dir, "train")
    run = tiny_state.run(config, 2 if last else 9)
    seen = []

    def encode(parameters, batch):
        if not seen:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(batch["label"])
        return tiny_state.encode(parameters, batch)

    monkeypatch.setattr(run_probes, "feature_function", lambda *_: encode)
    monkeypatch.setattr(run_probes, "both_networks", lambda *_: {"teacher": None})
    probes = run_probes.probes_of(config.probe, config, run, dataset, dataset)
    with Checkpoints(tmp_path / "checkpoints", config, len(dataset), dataset.digest) as checkpoints:
        state = training.first_state(run, checkpoints)
        stops = pytest.raises(StoppedError, match="after step 3, as requested")
        with contextlib.nullcontext() if last else stops:
            training.loop(config, run, state, dataset, checkpoints, tmp_path, probes)
    printed = capsys.readouterr().out
    assert (len(seen) > 1) == last
    assert ("teacher video" in printed) == last
    assert ("left out  the nearest neighbors of step 2, as the run stops\n" in printed) != last


def test_second_ctrl_c_interrupts_immediately(capfd):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Preemption() as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.reached()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert after == before
    assert capfd.readouterr().err == f"{STOPPING}\n"


# A call that Python's handlers of signals wait for, as they do for a step or its compilation. (The
# signal is kept from this thread, so that it does not cut the call short.)
DEAF = """
import ctypes, signal
from xkd_jax.training.faults import preemption
preemption.PATIENCE = 0.05
with preemption.Preemption():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    print("open", flush=True)
    ctypes.CDLL(None).sleep(60)
"""


def test_ctrl_c_is_handled_during_step():
    """Both end immediately, while the main thread executes compiled code for a minute."""
    running = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout.readline() == "open\n"
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline() == f"{STOPPING}\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == EXIT_INTERRUPTED


# what JAX logs then
NOTICED = "Preemption sync counter is set"
SECOND_LOOP = """
import os, pathlib, signal, sys
import jax
jax.distributed.initialize(sys.argv[1], 1, 0, cluster_detection_method="deactivate")
from xkd_jax.training.checkpoints.item_checkpoints import ItemCheckpoints
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.training.faults.preemption import STOPPING, Preemption
from xkd_jax.training.logs import goodput_file
from xkd_jax.training.checkpoints.saved_checkpoint import step_folders
from xkd_jax.training.checkpoints.run_record import RunRecord
with Preemption() as preemption:
    assert not any(preemption.reached() for _ in range(20))
if sys.argv[2]:  # Orbax also has a detection of preemption
    record = RunRecord.of({}, 1, "")
    with ItemCheckpoints(pathlib.Path(sys.argv[2]), CheckpointConfig(), record) as checkpoints:
        checkpoints.save_items(1000, {"item": {"a": jax.numpy.zeros(3)}})
os.kill(os.getpid(), signal.SIGTERM)  # between two loops, as in the test of a fold
input()  # until the thread of the notifier has received it
with Preemption() as preemption:
    print("reached", [preemption.reached() for _ in range(3)].index(True))
"""


@pytest.mark.parametrize("saves", [False, True])
def test_second_loop_of_distributed_run_detects_earlier_signal(tmp_path, saves):
    coordinator = f"localhost:{free_port()}"
    running = subprocess.Popen(
        [sys.executable, "-c", SECOND_LOOP, coordinator, str(tmp_path / "saved") if saves else ""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
    )  # fmt: skip
    limit = threading.Timer(120, running.kill)
    limit.start()
    with running:
        log = list(itertools.takewhile(lambda line: NOTICED not in line, running.stderr))
        printed, rest = running.communicate("\n")
    limit.cancel()
    assert "reached 0" in printed, [*log, rest]


@pytest.mark.parametrize("phase", ["compile", "probe"])
def test_compilation_and_probe_are_ended_by_sigterm(tmp_path, phase):
    code = f"""
import ctypes, signal
import noise_shards, tiny_state
from data_pipelines import resumable_end
from xkd_jax.training import train as training
from pathlib import Path
resumable_end.PATIENCE = 0.1
def hang(*_):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    print("open", flush=True)
    ctypes.CDLL(None).sleep(60)
changes = {{"checkpoint.every_steps": 0, "pictures_every": 2}}
config = noise_shards.config({str(tmp_path / "shards")!r}, **changes)
training.run_of = lambda config, length, mesh: tiny_state.run(config, length.steps)
if {phase!r} == "probe":
    training.gallery = lambda *_: hang
else:
    loop, training.Loop = training.Loop, lambda **kwargs: loop(**(kwargs | {{"compile": hang}}))
with resumable_end.on_request():
    training.train(config, Path({str(tmp_path / "run")!r}))
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    with running:
        assert "open\n" in iter(running.stdout.readline, "")
        running.send_signal(signal.SIGTERM)
        printed, errors = running.communicate(timeout=60)
    assert running.returncode == EXIT_RESUMABLE, errors
    steps = [int(path.name) for path in step_folders(tmp_path / "run" / "checkpoints")]
    if phase == "probe":
        assert "stopped   in the probe after step 2, as requested: run the same" in errors
        assert steps == [2]
    else:
        assert "stopped   while compiling the step, as requested: run the same" in errors
        assert not steps
        assert goodput_file.read(tmp_path / "run").stops == 1
    assert "goodput   " in printed
