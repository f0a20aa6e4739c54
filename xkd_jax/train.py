"""A pretraining run, from its config to its last checkpoint."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import pipeline, spoken_digits
from data_pipelines.dataset import Dataset, open_dataset
from xkd_jax import sharding
from xkd_jax.checkpoint import Checkpoints
from xkd_jax.config import MODALITIES, Config
from xkd_jax.errors import TrainingDivergedError, UserError
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.probe import encoder, extract_features, linear_probe
from xkd_jax.progress import Progress, Scalars
from xkd_jax.run import Run
from xkd_jax.schedules import Length
from xkd_jax.state import TrainState
from xkd_jax.step import Metrics
from xkd_jax.tree import Tree

# Steps that may be on their way to the device at once: one runs while the next is handed over.
IN_FLIGHT = 2


def train(config: Config, workdir: Path) -> None:
    """Runs `config` in `workdir`, or goes on with the run that is there.

    Raises:
      UserError: data, mesh or checkpoints don't fit the config.
      TrainingDivergedError: a loss was not finite.
    """
    directory = data_directory(config, workdir)
    dataset = open_dataset(config, directory, config.data.split)
    length = Length.of(config, len(dataset))
    mesh = sharding.make_mesh(config.mesh)
    run = Run.prepare(config, length, mesh)
    announce(f"{sharding.describe(config, mesh)}\n{_describe(config, dataset, length)}")
    write_once(workdir / "config.json", dataclasses.asdict(config))

    with Checkpoints(workdir / "checkpoints", config.checkpoint) as checkpoints:
        state = first_state(run, checkpoints)
        state = loop(run, state, dataset, checkpoints, workdir)
        checkpoints.wait()
    if config.probe.enabled:
        test = open_dataset(config, directory, config.probe.split)
        report(probe(run, state, dataset, test), workdir)


def first_state(run: Run, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint's state, or a fresh one."""
    latest = checkpoints.latest()
    if latest is None:
        return run.initialise()
    announce(f"resume    from step {latest}, {checkpoints.directory}")
    return checkpoints.restore(latest, run.like, run.config)


def loop(
    run: Run, state: TrainState, dataset: Dataset, checkpoints: Checkpoints, workdir: Path
) -> TrainState:
    """Steps to the end of the run, logging and saving on the way."""
    config, steps, start = run.config, run.length.steps, int(state.step)
    progress = Progress(steps, config.batch_size, start)
    scalars = Scalars(workdir / "tensorboard", enabled=is_main_process(), start=start)
    batches = device_batches(run, dataset, start, progress)
    unread: collections.deque[tuple[int, Metrics]] = collections.deque()
    # A writer left open starts a thread when Python ends, which is too late.
    with contextlib.closing(scalars), contextlib.closing(batches):
        for step in range(start + 1, steps + 1):
            state, metrics = run.step(state, next(batches))
            unread.append((step, metrics))
            if len(unread) > IN_FLIGHT:
                jax.block_until_ready(unread[-1 - IN_FLIGHT][1]["loss"])
            saving = is_due(step, config.checkpoint.every_steps, steps)
            if saving or is_due(step, config.log_every, steps):
                averages = read_metrics(unread, checkpoints)
                line, speed = progress.line(step, averages)
                announce(line)
                scalars.write(step, averages | speed)
            if saving:
                checkpoints.save(step, state, config)
    return state


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something done every so many steps (0: never), and at the last, is due."""
    return step == last or (every > 0 and step % every == 0)


def device_batches(run: Run, dataset: Dataset, start: int, progress: Progress) -> Generator[Any]:
    """Batches on the devices from step `start` on.

    The loop asks for a batch while the devices are still busy with the one before, so reading it
    and moving it are hidden behind that step.
    """
    host = pipeline.train_batches(run.config, dataset, run.rows, start)
    try:
        while True:
            since = time.perf_counter()
            batch = next(host)
            progress.waited(time.perf_counter() - since)
            views = {m: batch[m] for m in MODALITIES}
            yield sharding.put_batch(views, run.batch_sharding, run.config.batch_size)
    finally:
        host.close()


def read_metrics(
    unread: collections.deque[tuple[int, Metrics]], checkpoints: Checkpoints
) -> dict[str, float]:
    """Fetches the metrics of the steps since the last call and returns their means.

    Raises:
      TrainingDivergedError: one is not finite; it names the first such step.
    """
    rows = [(step, jax.device_get(metrics)) for step, metrics in unread]
    unread.clear()
    for step, metrics in rows:
        bad = [name for name, value in metrics.items() if not np.isfinite(value)]
        if bad:
            checkpoints.wait()
            raise TrainingDivergedError(step, _blame(bad), checkpoints.latest())
    return {name: float(np.mean([metrics[name] for _, metrics in rows])) for name in rows[0][1]}


def _blame(bad: list[str]) -> str:
    terms = [name for name in bad if name.startswith("loss/")]
    return ", ".join(terms or bad)


def data_directory(config: Config, workdir: Path) -> str:
    """Where the shards are; the spoken digits are made there on first use."""
    if config.data.dataset == "spoken_digits":
        directory = config.data.dir or str(workdir / "data")
        spoken_digits.build(config, directory, announce)
        return directory
    if not config.data.dir:
        raise UserError(
            "data.dir is empty: give --config.data.dir=SHARDS, made from a folder of videos by"
            " python -m data_pipelines.build."
        )
    return config.data.dir


def probe(
    run: Run, state: TrainState, dataset: Dataset, test: Dataset
) -> dict[str, dict[str, float]]:
    """Linear-probe accuracies of student and teacher, before training and now."""
    config = run.config
    encode = encoder(config)
    used = np.arange(min(config.probe.train_records, len(dataset)))

    def score(parameters: dict[str, Tree]) -> dict[str, float]:
        fitted, scored = (
            extract_features(
                encode,
                parameters,
                pipeline.eval_batches(config, data, run.rows, records=records),
                run.batch_sharding,
            )
            for data, records in ((dataset, used), (test, None))
        )
        return linear_probe(fitted, scored)

    announce("probe     before training")
    untrained = score({"student": run.initialise().teacher})  # at first they are one
    announce("probe     after training")
    return {
        "before": untrained | {k.replace("student", "teacher"): v for k, v in untrained.items()},
        "after": score(
            {"student": teacher_counterpart(state.student, config), "teacher": state.teacher}
        ),
    }


def report(results: Mapping[str, Mapping[str, float]], workdir: Path) -> None:
    """Prints the probes as a table and writes them as `results.json`."""
    announce(f"\n{'linear probe, top-1 %':22}" + "".join(f"{moment:>9}" for moment in results))
    for name in results["before"]:
        announce(f"{name:22}" + "".join(f"{results[m][name]:9.1f}" for m in results))
    write_once(workdir / "results.json", {"linear_probe_top1": results})
    announce(f"written   {workdir / 'results.json'}")


def _describe(config: Config, dataset: Dataset, length: Length) -> str:
    return (
        f"data      {len(dataset)} records, batch {config.batch_size}\n"
        f"run       {length.steps} steps of {length.steps_per_epoch} an epoch"
    )


def is_main_process() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def announce(text: str) -> None:
    """Prints on the main process."""
    if is_main_process():
        print(text, flush=True)


def write_once(path: Path, content: Any) -> None:
    """Writes JSON from the main process."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
