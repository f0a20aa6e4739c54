"""Runs main.py as one process of a run and records its actions, for `test_processes`.

Files in the folder NOTES: `PROCESS.jsonl` has a line for each batch (its records) and for each
logged step (its loss), and `PROCESS.written` each file of the run that Python opened for writing.
With TINY, the steps are those of `tiny_state`, `PROCESS.npz` has the result of its `encode` for the
test split, PACE is the least time in seconds between two steps, and HEARTBEAT (default 10) the
seconds without a heartbeat after which a process is given up, in place of 100. Without TINY nothing
is saved. Process DIE_SAVING kills itself in its first save, while the others wait for it. Process
FLIP starts with a flipped bit on its first device. ORDER is the order of the devices in the mesh.
With DISKS, a folder, `$DISK` is another folder below it for each process. With NEIGHBORS, probes
have the features of `tiny_state`, and print a line and wait so many seconds for each batch.
"""

import functools
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import tiny_state

from benchmarks.soak.flipped_bits import flipped
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.training import run_probes, train
from xkd_jax.training.logs import progress
from xkd_jax.training.probe import extract_features


def notes(suffix: str) -> Path:
    return Path(os.environ["NOTES"]) / f"{jax.process_index()}.{suffix}"


def note(**what) -> None:
    with notes("jsonl").open("a") as file:
        file.write(json.dumps(what) + "\n")


def watch_files(event, args):
    if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else ""
        if path.startswith(WORKDIR):
            with notes("written").open("a") as file:
                file.write(os.path.relpath(path, WORKDIR) + "\n")


def watched_batches(config, dataset, rows=None, start_step=0, **kwargs):
    batches = train_batches(config, dataset, rows, start_step, **kwargs)
    for step, batch in enumerate(batches, start_step + 1):
        note(step=step, records=batch["record"].tolist())
        time.sleep(float(os.environ.get("PACE", 0)))
        yield batch
    batches.close()


def watched_write(self, step, scalars):
    note(step=step, loss=scalars["loss"])
    write(self, step, scalars)


def die_or_save(self, *args, **kwargs):
    if os.environ.get("DIE_SAVING") == str(jax.process_index()):
        os.kill(os.getpid(), signal.SIGKILL)
    return save(self, *args, **kwargs)


def evaluate_and_loop(config, run, state, *args):
    test = open_dataset(config, config.data.dir, "test")
    features = extract_features(
        jax.jit(tiny_state.encode),
        {"teacher": state.teacher},
        eval_batches(config, test, run.rows),
        run.batch_sharding,
        config.batch_size,
    )
    np.savez(notes("npz"), **features)
    if os.environ.get("FLIP") == str(jax.process_index()):
        centers = {"c": flipped(state.centers["c"], jax.local_devices()[0].id, 20)}
        state = state.replace(centers=centers)
    return loop(config, run, state, *args)


def slow_batches(config, dataset, rows=None, *args, **kwargs):
    for batch in eval_batches(config, dataset, rows, *args, **kwargs):
        print("a batch of the probe", flush=True)
        time.sleep(float(os.environ["NEIGHBORS"]))
        yield batch


(WORKDIR,) = (arg.partition("=")[2] for arg in sys.argv if arg.startswith("--workdir="))
(PROCESS,) = (arg.partition("=")[2] for arg in sys.argv if arg.startswith("--process_id="))
os.environ["DISK"] = os.path.join(os.environ.get("DISKS", ""), PROCESS)
sys.addaudithook(watch_files)
train_batches, pipeline.train_batches = pipeline.train_batches, watched_batches
eval_batches = pipeline.eval_batches
write, progress.Scalars.write = progress.Scalars.write, watched_write
jax.distributed.initialize = functools.partial(
    jax.distributed.initialize, heartbeat_timeout_seconds=int(os.environ.get("HEARTBEAT", "10"))
)
if order := os.environ.get("ORDER"):
    mesh_lib.mesh_utils.create_device_mesh = lambda sizes, devices, **_: np.array(
        [devices[int(number)] for number in order.split(",")]
    ).reshape(sizes)
save, ocp.CheckpointManager.save = ocp.CheckpointManager.save, die_or_save
loop = train.loop
if os.environ.get("TINY"):
    train.loop = evaluate_and_loop
    train.run_of = lambda config, length, mesh: tiny_state.run(config, length.steps)
    if os.environ.get("NEIGHBORS"):
        pipeline.eval_batches = slow_batches
        run_probes.feature_function = lambda *_: jax.jit(tiny_state.encode)
        run_probes.both_networks = lambda state, architecture: {"teacher": state.teacher}
else:
    train.Checkpoints.save = lambda self, step, state: None
if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "main.py"), run_name="__main__")
