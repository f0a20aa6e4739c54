"""Runs of several processes on this machine, connected by JAX's start and gloo."""

import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import noise_shards
import numpy as np
import pytest
import several_run
import tiny_state
from coordinator import free_port
from failing_calls import system_error

from data_pipelines.errors import EXIT_FAILURE, EXIT_RESUMABLE, UserError
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config import pretraining as xkd_config
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel import processes
from xkd_jax.training import train as training
from xkd_jax.training.logs import progress
from xkd_jax.training.probe import extract_features

STEPS = 9
RECORDS, TEST_RECORDS = 24, 13  # with batches of 8 the last one of the test split is ragged
HERE = Path(__file__).parents[1]


class Start:
    """Processes of one run with 8 devices in total; leaving the context ends them."""

    def __init__(self, count, workdir, notes, shards, *flags, **environment):
        notes.mkdir()
        command = [
            sys.executable, str(HERE / "one_process.py"), f"--config={HERE / 'several_run.py'}",
            f"--workdir={workdir}", f"--config.data.dir={shards}", f"--config.max_steps={STEPS}",
            f"--coordinator=localhost:{free_port()}", f"--num_processes={count}", *flags,
        ]  # fmt: skip
        environment = os.environ | environment | {
            "NOTES": str(notes),
            "PYTHONPATH": str(HERE.parent),
            "XLA_FLAGS": re.sub(r"(device_count)=8", rf"\1={8 // count}", os.environ["XLA_FLAGS"]),
        }  # fmt: skip
        self.output = ["" for _ in range(count)]
        self._changed = threading.Condition()
        self._processes = [
            subprocess.Popen(
                [*command, f"--process_id={i}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, env=environment,
            )
            for i in range(count)
        ]  # fmt: skip
        self._readers = [threading.Thread(target=self._read, args=(i,)) for i in range(count)]
        for reader in self._readers:
            reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self._processes:
            process.kill()

    def _read(self, index):
        for line in self._processes[index].stdout:
            with self._changed:
                self.output[index] += line
                self._changed.notify()

    def signal_after(self, text, index, number):
        """Waits until the main process prints a text, then sends a signal to one process."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.output[0], 240), self.output
        self._processes[index].send_signal(number)

    def statuses(self):
        """Waits for all processes and returns their exit statuses."""
        found = [process.wait(240) for process in self._processes]
        for reader in self._readers:
            reader.join()
        return found


def read_notes(folder, key):
    """{step: [a value of each process]}."""
    found: dict[int, list] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if key in entry:
                found.setdefault(entry["step"], []).append(entry[key])
    return found


def saved_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("shards"))
    raw = several_run.get_config()
    raw.data.dir = noise_shards.write(directory, RECORDS, TEST_RECORDS)
    raw.max_steps = STEPS
    return xkd_config.resolve(raw)


def train_here(config, workdir, monkeypatch):
    """Trains in this process; returns {step: loss} and {step: records}."""
    losses, records = {}, {}
    batches, write = pipeline.train_batches, progress.Scalars.write

    def watched(config, dataset, rows, start):
        for step, batch in enumerate(batches(config, dataset, rows, start), start + 1):
            records[step] = batch["record"].tolist()
            yield batch

    def noted(self, step, scalars):
        losses[step] = scalars["loss"]
        write(self, step, scalars)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train_batches", watched)
        patch.setattr(progress.Scalars, "write", noted)
        training.train(config, workdir)
    return losses, records


def features_here(config):
    """Returns the records of `one_process.evaluate_and_loop`."""
    sharding = mesh_lib.batch_sharding(mesh_lib.make_mesh(config.mesh), 8)
    batches = pipeline.eval_batches(config, open_dataset(config, config.data.dir, "test"))
    return extract_features(jax.jit(tiny_state.encode), {"teacher": None}, batches, sharding, 8)


def assert_near(found, losses):
    """Compares {step: losses of the writing process} with those of the uninterrupted run."""
    for step, values in found.items():
        np.testing.assert_allclose(values, losses[step], rtol=1e-4)


def preempted(count, workdir, notes, shards):
    """Starts a number of processes, preempts one after step 2; returns the step that all save."""
    with Start(count, workdir, notes, shards, TINY="yes", PACE="0.3") as run:
        run.signal_after("step 2/", count // 2, signal.SIGTERM)
        assert run.statuses() == [EXIT_RESUMABLE] * count, run.output
    (stopped,) = saved_steps(workdir)
    assert 2 <= stopped < STEPS
    assert all(f"after step {stopped}, as requested" in output for output in run.output)
    assert not any("step 1/" in output for output in run.output[1:])
    return stopped


def assert_same_data_and_losses(notes, count, losses, records):
    """The processes read disjoint parts of the records of each step, in their order."""
    for step, read in read_notes(notes, "records").items():
        assert [len(part) for part in read] == [8 // count] * count
        assert list(itertools.chain(*read)) == records[step]
    found = read_notes(notes, "loss")
    assert min(found) == 1
    assert_near(found, losses)


def assert_same_features(notes, count, expected):
    for process in range(count):
        features = np.load(notes / f"{process}.npz")
        assert features.keys() == expected.keys()
        for name, value in expected.items():
            assert len(value) == TEST_RECORDS
            np.testing.assert_allclose(features[name], value, rtol=1e-5)


@pytest.mark.slow
def test_run_preempted_on_two_processes_is_resumed_by_one(config, tmp_path, monkeypatch):
    tiny_state.use_in_runs(monkeypatch)
    losses, records = train_here(config, tmp_path / "whole", monkeypatch)
    assert sorted(itertools.chain(*(records[n] for n in (1, 2, 3)))) == list(range(RECORDS))
    workdir, notes = tmp_path / "run", tmp_path / "two"
    stopped = preempted(2, workdir, notes, config.data.dir)
    assert_same_data_and_losses(notes, 2, losses, records)
    assert_same_features(notes, 2, features_here(config))
    (written,) = notes.glob("*.written")  # arrays are not written by Python
    assert written.name == "0.written"
    assert "config.json" in written.read_text()
    assert "tensorboard" in written.read_text()
    rest, _ = train_here(config, workdir, monkeypatch)
    assert min(rest) == stopped + 1
    assert_near(rest, losses)
    assert saved_steps(workdir) == [stopped, STEPS]


@pytest.mark.slow
@pytest.mark.heavy
def test_run_resumed_on_four_two_and_one_processes(config, tmp_path, monkeypatch):
    """Four processes are preempted, one of two is killed, and a single one finishes the run."""
    tiny_state.use_in_runs(monkeypatch)
    losses, records = train_here(config, tmp_path / "whole", monkeypatch)
    workdir, shards = tmp_path / "run", config.data.dir
    stopped = preempted(4, workdir, tmp_path / "four", shards)
    assert_same_data_and_losses(tmp_path / "four", 4, losses, records)

    blocks = {"ORDER": "0,1,4,5,2,3,6,7"}  # two hosts of 2 x 2 chips in a torus of 2 x 4
    with Start(2, workdir, tmp_path / "two", shards, TINY="yes", PACE="0.3", **blocks) as two:
        two.signal_after(f"step {stopped + 1}/", 1, signal.SIGKILL)
        survivor, killed = two.statuses()
    assert f"resume    from step {stopped}" in two.output[0]
    assert killed == -signal.SIGKILL
    if survivor == EXIT_FAILURE:  # a broken connection was detected
        assert "another process of the run broke" in two.output[0]
    else:  # JAX ended it, as the other process sent no heartbeat
        assert survivor == -signal.SIGABRT
    read, whole = read_notes(tmp_path / "two", "records")[stopped + 1], records[stopped + 1]
    assert sorted(read) == sorted([whole[:2] + whole[4:6], whole[2:4] + whole[6:]])
    found = read_notes(tmp_path / "two", "loss")
    assert min(found) == stopped + 1
    assert_near(found, losses)
    assert saved_steps(workdir) == [stopped]
    expected = features_here(config)
    for start, count in (("four", 4), ("two", 2)):
        assert_same_features(tmp_path / start, count, expected)

    rest, _ = train_here(config, workdir, monkeypatch)
    assert min(rest) == stopped + 1
    assert_near(rest, losses)
    assert len(list((workdir / "tensorboard").glob("events*"))) == 3  # one of each start


@pytest.mark.slow
@pytest.mark.heavy
def test_run_with_a_lost_disk_resumes_from_peer_copies(config, tmp_path):
    """A killed run resumes without one host's disk; without both, from the run's folder."""
    workdir, disks, shards = tmp_path / "run", tmp_path / "disks", config.data.dir
    flags = (
        "--config.checkpoint.every_steps=4", "--config.local_checkpoints.every_steps=5",
        "--config.local_checkpoints.dir=$DISK/xkd",
    )  # fmt: skip
    tiny = {"TINY": "yes", "PACE": "0.3", "DISKS": str(disks)}

    def killed_after_step_6(notes):
        with Start(2, workdir, tmp_path / notes, shards, *flags, **tiny) as two:
            two.signal_after("step 7/", 1, signal.SIGKILL)
        return two.output[0], read_notes(tmp_path / notes, "loss")[6]

    _, whole = killed_after_step_6("whole")
    (values,) = (disks / "0" / "xkd").glob("*/5.*/0/values")
    intact = values.read_bytes()
    values.write_bytes(b"damage" + intact[6:])
    output, losses = killed_after_step_6("damaged")
    assert "damaged   1 part of the local checkpoint of step 5: not used" in output
    assert "resume    from step 5, the hosts' folders $DISK/xkd" in output
    assert losses == whole  # to the last bit
    values.write_bytes(intact)
    shutil.rmtree(disks / "1")
    output, losses = killed_after_step_6("one lost")
    assert "resume    from step 5, the hosts' folders $DISK/xkd" in output
    assert losses == whole
    shutil.rmtree(disks)
    with Start(2, workdir, tmp_path / "both lost", shards, *flags, **tiny) as last:
        assert last.statuses() == [0, 0], last.output
    assert f"resume    from step 4, {workdir}" in last.output[0]
    assert not list(disks.glob("*/xkd/*"))  # the run has ended


@pytest.mark.slow
@pytest.mark.heavy
def test_sigterm_in_probe_ends_all_after_the_next_step(config, tmp_path):
    flags = ("--config.probe.knn_every=2", "--noconfig.probe.enabled")
    pace = {"TINY": "yes", "NEIGHBORS": "1"}
    with Start(2, tmp_path / "run", tmp_path / "two", config.data.dir, *flags, **pace) as two:
        two.signal_after("a batch of the probe", 1, signal.SIGTERM)
        assert two.statuses() == [EXIT_RESUMABLE] * 2, two.output
    assert saved_steps(tmp_path / "run") == [3]
    assert "left out  the nearest neighbors of step 2, as the run stops\n" in two.output[0]
    assert all("after step 3, as requested" in output for output in two.output)


@pytest.mark.slow
@pytest.mark.heavy
def test_process_killed_during_save_is_lost(config, tmp_path):
    """The others can resume: a lost process is not reported as an error of the disk."""
    flags = ("--config.max_steps=1",)
    kill = {"TINY": "yes", "DIE_SAVING": "1", "HEARTBEAT": "60"}
    with Start(2, tmp_path / "run", tmp_path / "two", config.data.dir, *flags, **kill) as two:
        assert two.statuses() == [EXIT_FAILURE, -signal.SIGKILL], two.output
    assert "error: The connection to another process of the run broke (" in two.output[0]
    assert "make room" not in two.output[0]
    assert "Traceback" not in two.output[0]


@pytest.mark.slow
@pytest.mark.heavy
def test_flipped_bit_of_one_process_ends_all_and_its_host_is_named(config, tmp_path):
    flags, flip = ("--config.check_every=2",), {"TINY": "yes", "FLIP": "1"}
    with Start(2, tmp_path / "run", tmp_path / "two", config.data.dir, *flags, **flip) as two:
        assert two.statuses() == [EXIT_FAILURE] * 2, two.output
    host = re.escape(socket.gethostname())
    told = rf"Step 2: different copies of \.centers\['c'\] on device \d+ of process 1 \({host}\);"
    for output in two.output:
        assert re.search(told, output)
        assert "Traceback" not in output
    assert not saved_steps(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.heavy
def test_losses_are_equal_on_two_processes(config, tmp_path, monkeypatch):
    """Runs without checkpoints, which would double the duration of the test."""
    config = dataclasses.replace(config, max_steps=3)
    monkeypatch.setattr(training.Checkpoints, "save", lambda self, step, state: None)
    losses, _ = train_here(config, tmp_path / "one", monkeypatch)
    flags = ("--config.max_steps=3",)
    with Start(2, tmp_path / "run", tmp_path / "two", config.data.dir, *flags) as two:
        assert two.statuses() == [0, 0], two.output
    found = read_notes(tmp_path / "two", "loss")
    assert list(found) == [1, 2, 3]
    assert_near(found, losses)


@pytest.mark.parametrize("count,index", [(0, 0), (2, 2), (2, -1)])
def test_invalid_process_id_is_refused(count, index):
    with pytest.raises(UserError, match="each its own number from 0"):
        processes.start("localhost:1", count, index)


@pytest.mark.parametrize("count,index", [(2, 1), (2, -1), (0, 1)])
def test_process_id_without_coordinator_is_refused(count, index):
    with pytest.raises(UserError, match=rf"{count} --process_id={index} without --coordinator"):
        processes.start("", count, index)


def test_json_file_is_replaced_atomically(tmp_path):
    processes.write_once(tmp_path / "new" / "a.json", {"b": 1})
    processes.write_once(tmp_path / "new" / "a.json", {"b": 2})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"b": 2}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


def test_failed_json_write_keeps_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    processes.write_once(path, {"b": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", system_error(errno.ENOSPC))
        with pytest.raises(
            UserError, match=r"a\.json can't be written \(No space left on device\)"
        ):
            processes.write_once(path, {"b": 2})
    assert json.loads(path.read_text()) == {"b": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(UserError, match=r"a\.json/c\.json can't be written \("):
        processes.write_once(path / "c.json", {})
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"folder\.json can't be written \("):
        processes.write_once(tmp_path / "folder.json", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "folder.json"]
