"""Processes of one run with different flags, programs or data."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import noise_shards
import numpy as np
import pytest
from coordinator import free_port
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError
from xkd_jax.parallel import agreement, processes

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "values,sentence",
    [
        ([{"a": 1}, {"a": 2}], r"a is 1 on process 0 \(h0\) and 2 on process 1 \(h1\)"),
        ([{"a": {"b": "x"}}, {"a": {"b": "y"}}], r'a\.b is "x" on process 0 .* and "y" on'),
        ([{"a": 1}, {}], r"a is 1 on process 0 \(h0\) and missing on process 1 \(h1\)"),
        ([{"a": 1}, {"a": 1}, {"a": 3}, {"a": 1}], r"a is 1 on processes 0, 1, 3 \(h0, h1, h3\)"),
        ([{"a": 1}, {"a": 1.0}], r"a is 1 on process 0 \(h0\) and 1\.0 on process 1"),
        ([{"a": [1, 2]}, {"a": [1, 3]}], r"a is \[1, 2\] on process 0"),
        ([{"a": "x" * 999}, {"a": "y" * 999}], r'a is "x{79}\.\.\. on process 0'),
        ([{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 2}], r"a is [^;]*; c is [^;]*: start"),
    ],
)
def test_message_names_keys_values_and_processes(values, sentence):
    found = agreement.describe([f"h{i}" for i in range(len(values))], values)
    assert re.search(rf"^The processes of the run differ: {sentence}", found)
    assert found.endswith(": start all of them with the same flags, program, libraries and data.")


def test_message_names_eight_differences_and_counts_others():
    values = [{f"key{i:02}": process for i in range(20)} for process in range(300)]
    found = agreement.describe(["host"] * 300, values)
    assert found.count("key") == 8
    assert "; and 12 more: start" in found
    assert found.count(" and 292 other values") == 8
    assert len(found) < 4000


def test_message_names_eight_processes():
    values = [{"a": int(process == 7)} for process in range(300)]
    found = agreement.describe([f"h{process // 8}" for process in range(300)], values)
    assert (
        "a is 0 on processes 0, 1, 2, 3, 4, 5, 6, 8, ... (h0, h1, h2, h3, h4, h5, h6, h7, ...)"
        in found
    )
    assert "and 1 on process 7 (h0)" in found


class Device:
    def __init__(self, process_index):
        self.process_index = process_index


def test_different_numbers_of_devices_are_one_sentence(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([x, x]))
    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(0), Device(1), Device(1)] * 3)
    agreement.require({})
    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(1), Device(1)])
    with pytest.raises(UserError, match=r"devices \(1 of process 0, 2 of process 1\): give each"):
        agreement.require({})


# main.py with a program version from the environment; it looks for a shared folder once.
MAIN = """
import os, runpy
from xkd_jax.training.faults import run_lease
from xkd_jax.training.checkpoints import versions
versions.versions = lambda: {"code": os.environ.get("CODE", "0")}
run_lease.SEEN_SECONDS = 0.0
runpy.run_path("MAIN", run_name="__main__")
""".replace("MAIN", str(HERE.parent / "main.py"))


def _start(*differences):
    """Two processes of one run, each with its flags, environment and folder."""
    port = free_port()
    started = [
        subprocess.Popen(
            [
                sys.executable, "-c", MAIN, f"--config={HERE / 'several_run.py'}",
                f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={i}",
                *flags,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env=os.environ | {"PYTHONPATH": f"{HERE.parent}:{HERE}"} | environment,
        )
        for i, (flags, environment, folder) in enumerate(differences)
    ]  # fmt: skip
    found = []
    for process in started:
        try:
            _, told = process.communicate(timeout=120)
        finally:
            process.kill()
        found.append((process.returncode, [line for line in told.splitlines() if "error:" in line]))
    return found


def test_processes_with_different_flags_are_refused(tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}"]
    rate, seed, steps = (
        f"--config.{key}" for key in ("optimizer.learning_rate", "seed", "max_steps")
    )
    found = _start(
        ([*flags, f"{rate}=0.001", f"{seed}=1", f"{steps}=5"], {}, tmp_path),
        ([*flags, f"{rate}=0.002", f"{seed}=2", f"{steps}=6"], {"CODE": "1"}, tmp_path),
    )
    assert [status for status, _ in found] == [2, 2]
    for _, (line,) in found:
        for key, first, second in (
            ("config.optimizer.learning_rate", "0.001", "0.002"),
            ("config.seed", "1", "2"),
            ("config.max_steps", "5", "6"),
            ("version.code", '"0"', '"1"'),
        ):
            host = re.escape(socket.gethostname())
            told = rf"{key} is {first} on process 0 \({host}\) and {second} on process 1 \({host}\)"
            assert re.search(told, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shared", ["workdir", "data"])
def test_unshared_workdir_is_refused(tmp_path, shared):
    """A relative path, in two folders, represents a path on two machines."""
    for seed, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        noise_shards.write(str(tmp_path / name / "shards"), 24 + 8 * seed)
    data = "shards" if shared == "data" else str(tmp_path / "one" / "shards")
    workdir = "run" if shared == "workdir" else str(tmp_path / "run")
    flags = [f"--workdir={workdir}", f"--config.data.dir={data}"]
    found = _start(*((flags, {}, tmp_path / name) for name in ("one", "two")))
    if shared == "data":
        assert [status for status, _ in found] == [2, 2]
        for _, (line,) in found:
            assert re.search(r'data in shards\.train is "\w+" on process 0 .* and "\w+" on', line)
    else:
        assert [status for status, _ in found] == [2, 2]
        assert "Another process of the run failed" in found[0][1][0]
        assert "(process 1) is not the folder of that name on the main process'" in found[1][1][0]


@pytest.mark.parametrize("main", [True, False])
def test_condition_of_main_process_is_sent_with_equal_length_by_all(monkeypatch, main):
    """If processes send different numbers of bytes, the collective aborts."""
    sent = []

    def gather(value):
        sent.append(value.dtype)
        return np.stack([np.int64(1), value])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    monkeypatch.setattr(processes, "is_main_process", lambda: main)
    monkeypatch.setattr(processes, "run_on_all", lambda action: action())
    assert processes.number_of_main(lambda: True) == 1
    assert sent == [np.int64]
