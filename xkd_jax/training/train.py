"""A pretraining run: data, state, training loop, checkpoints and probes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import PurePath

import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset, open_dataset
from data_pipelines.read.read_ahead import Batch
from data_pipelines.terminal import escaped
from xkd_jax.config import listing
from xkd_jax.config.pretraining import Config, ProbeConfig
from xkd_jax.method.collapse_metrics import information
from xkd_jax.method.train_state import TrainState
from xkd_jax.parallel import agreement
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.processes import (
    global_max,
    lost_peer_errors,
    main_activity,
    print_on_main,
    run_on_all,
    write_once,
)
from xkd_jax.training import memory, run_probes
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.compiled_run import Run, compile_step, run_of
from xkd_jax.training.data import run_data
from xkd_jax.training.faults import run_lease, silent_corruption
from xkd_jax.training.faults.recovery import Recovery
from xkd_jax.training.initial_encoders import Read
from xkd_jax.training.local.local_checkpoints import LocalCheckpoints
from xkd_jax.training.logs import goodput_file, run_sinks, run_summary, wandb_sink
from xkd_jax.training.logs.goodput import Cause, Goodput
from xkd_jax.training.logs.goodput_file import GoodputFile
from xkd_jax.training.loop import Loop
from xkd_jax.training.pictures.gallery import gallery
from xkd_jax.training.probe import ProbeInterrupted, Probes
from xkd_jax.training.run_results import PROBES
from xkd_jax.training.step_memory import StepMemory


@lost_peer_errors()
def train(
    config: Config,
    workdir: PurePath,
    written: Config | None = None,
    initial: Read | None = None,
    began: float | None = None,
) -> bool:
    """Trains with `config` in `workdir`; an existing run in that folder is resumed.

    A run that has ended is not changed.

    Args:
      config: of the run.
      workdir: folder of the run.
      written: config of the file without overrides, to print differences; None: not known.
      initial: reads the encoders that a run without a checkpoint starts from
        (`xkd_jax.inference.starting_weights.reader`); None if `init.from` is empty.
      began: when the program began, by `time.monotonic`; None: now.

    Returns:
      False if the run had ended before.

    Raises:
      UserError: data, mesh or checkpoints don't fit the config, or another run uses the folder.
      LostProcessError: the connection to another process of the run broke.
      TrainingDivergedError: a loss was not finite.
      StoppedError: the program was preempted; the state is saved.
    """
    run_data.check(config.data)
    wandb_sink.check(config.wandb)
    goodput = Goodput(began)
    smaller = f"--config.batch_size={max(1, config.batch_size // 2)} or less"
    if config.init.source and initial is None:
        raise ValueError("init.from is given, and train() has no reader of it")
    with run_lease.held(workdir) as check_lease, memory.exhaustion(smaller):
        return _train(config, workdir, written, initial, check_lease, goodput)


def _train(
    config: Config,
    workdir: PurePath,
    written: Config | None,
    initial: Read | None,
    check_lease: Callable[[], None],
    goodput: Goodput,
) -> bool:
    mesh = mesh_lib.make_mesh(config.mesh)

    def check_run() -> None:  # the memory of a step does not depend on the number of records
        _check_memory(config, run_of(config, config.length(max(config.data.records, 1)), mesh))

    directory = run_data.directory(config, config.probe, workdir, check_run)
    dataset = _open(config, directory, config.data.split)
    length = config.length(len(dataset))
    run = run_of(config, length, mesh).starting_from(initial)
    for line in run_summary.lines(config, written, len(dataset), length, mesh):
        print_on_main(line)
    _check_memory(config, run)

    probes = None
    if config.probe.enabled or config.probe.knn_every:
        test = _open(config, directory, config.probe.split)
        probes = run_probes.probes_of(config.probe, config, run, dataset, test)
    folder, digest = workdir / "checkpoints", dataset.digest
    with Checkpoints(folder, config, len(dataset), digest, check_lease) as checkpoints:
        local = None
        if config.local_checkpoints.dir:
            local = LocalCheckpoints(config.local_checkpoints, workdir)
            checkpoints.keep_local(local)
        cause: Cause = "restore" if checkpoints.exist() else "start"
        with main_activity("reading or making the first state"), goodput.phase(cause):
            state = first_state(run, checkpoints)
        if int(state.step) == length.steps and _is_complete(config.probe, workdir):
            print_on_main(
                f"ended     this run ended at step {length.steps}: nothing was changed; for more"
                " steps give a larger max_steps or epochs, for a new run another --workdir"
            )
            if local is not None:
                local.remove()  # if the process was killed before it did this
            return False
        write_once(workdir / "config.json", dataclasses.asdict(config))
        with goodput_file.kept(goodput, workdir, int(state.step)):
            state = loop(config, run, state, dataset, checkpoints, workdir, probes, goodput)
            if local is not None:
                local.remove()
            if config.probe.enabled and probes is not None:
                with goodput.phase("probe"):
                    results = run_probes.before_and_after(run, state, probes)
                check_lease()
                run_probes.report(results, workdir, probes.classes)
    for line in run_summary.last_lines(config, written, len(dataset), workdir, directory):
        print_on_main(line)
    return True


def _check_memory(config: Config, run: Run) -> None:
    """Refuses a step that clearly does not fit into memory, before it is compiled."""
    with main_activity("estimating the memory of a step"):
        run_on_all(_step_memory(config, run).check)


def _step_memory(config: Config, run: Run) -> StepMemory:
    devices = run.batch_sharding.mesh.size
    return StepMemory(run.architecture, config.loss, config, config.mesh, run.like, devices)


def _is_complete(config: ProbeConfig, workdir: PurePath) -> bool:
    """Whether the work after the last step, the probes, is done."""
    return not config.enabled or bool(global_max(int(storage.exists(str(workdir / PROBES)))))


def _open(config: LoaderConfig, directory: str, split: str) -> Dataset:
    """Opens a split and checks that it is the same on every process."""
    with main_activity(f"opening the split {escaped(split)}"):
        dataset = run_on_all(lambda: open_dataset(config, directory, split))
    agreement.require({f"data in {directory}": {split: dataset.digest}})
    return dataset


def first_state(run: Run, checkpoints: Checkpoints) -> TrainState:
    """Returns the state of the newest intact checkpoint, or the initial one without a checkpoint.

    Raises:
      UserError: the checkpoint's step is beyond the run's end; or as `Checkpoints.restore`.
    """
    state = checkpoints.restore(run.like)
    if state is None:
        if run.initial is not None:
            checkpoints.started_from(run.initial().record)
        return run.initialize()
    if int(state.step) > run.length.steps:
        raise UserError(
            f"{checkpoints.directory} holds a run at step {int(state.step)}, and this one ends at"
            f" step {run.length.steps}, so it has ended and nothing was changed: give a max_steps"
            " or epochs that reaches it, or another --workdir."
        )
    return state


def loop(
    config: Config,
    run: Run,
    state: TrainState,
    dataset: Dataset,
    checkpoints: Checkpoints,
    workdir: PurePath,
    probes: Probes | None,
    goodput: Goodput | None = None,
) -> TrainState:
    """Runs the remaining steps, with log lines, checkpoints and kNN probes.

    Args:
      config: of the run.
      run: its jitted functions.
      state: the state to start from; it is donated.
      dataset: the training split.
      checkpoints: the run's checkpoints.
      workdir: folder of the metrics.
      probes: None without probes.
      goodput: accounts for the time; None: new ones.

    Returns:
      The state after the last step.

    Raises:
      StoppedError: the program was preempted; the state is saved.
      TrainingDivergedError: a loss was not finite.
      CorruptedStateError: a device holds or computes other values than it should.
    """
    start = int(state.step)
    goodput = goodput or Goodput()

    def saved_state() -> TrainState:
        with goodput.phase("restore"):
            return first_state(run, checkpoints)

    recovery = Recovery(config.nonfinite, checkpoints, saved_state)

    def put(batch: Batch) -> Batch:
        views = {m: batch[m] for m in config.modalities}
        return mesh_lib.put_batch(views, run.batch_sharding, run.batch_size)

    def compile_run(state: TrainState, batch: Batch) -> jax.stages.Compiled:
        advice = _step_memory(config, run).flags_that_fit
        return compile_step(run.step, state, batch, advice=advice)

    def neighbors(
        state: TrainState, step: int, interrupted: Callable[[], bool]
    ) -> dict[str, float]:
        every = config.probe.knn_every
        if probes is None or not every or step % every:
            return {}
        networks = run_probes.both_networks(state, run.architecture)
        try:
            with main_activity("finding nearest neighbors"):
                found = probes.knn(networks, interrupted)
        except ProbeInterrupted:
            print_on_main(f"left out  the nearest neighbors of step {step}, as the run stops")
            return {}
        print_on_main("          " + "  ".join(f"{k} {v:.1f} %" for k, v in found.items()))
        return {f"knn/{name}": v for name, v in found.items()}

    weights = config.loss.weights
    draw = gallery(config, config.model, weights, dataset, run.rows, run.batch_sharding)

    def pictures(state: TrainState, step: int) -> dict[str, np.ndarray]:
        every = config.pictures_every
        if not every or step % every:
            return {}
        with main_activity("drawing reconstructions and attention"):
            return draw(state.student)

    return Loop(
        steps=run.length.steps,
        batch_size=run.batch_size,
        log_every=config.log_every,
        save_every=config.checkpoint.every_steps,
        keep=checkpoints.save_locally,
        keep_every=config.local_checkpoints.every_steps if config.local_checkpoints.dir else 0,
        put=put,
        compile=silent_corruption.checked(compile_run, config.check_every, start),
        recover=recovery.recover,
        measure=neighbors,
        followed=config.probe.enabled,
        derive=lambda means: information(means) | goodput.scalars(),
        draw=pictures,
        goodput=goodput,
    ).run(
        state,
        start,
        pipeline.train_batches(config, dataset, run.rows, start),
        checkpoints,
        run_sinks.opened(
            workdir,
            start,
            {"config": listing.table(config)},
            GoodputFile(workdir, goodput),
            project=config.wandb,
            settings=dataclasses.asdict(config),
        ),
    )
