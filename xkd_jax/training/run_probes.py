"""The probes of a run: their data, and their results before and after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import LoaderConfig
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import Dataset
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.architecture import Architecture
from xkd_jax.config.pretraining import ProbeConfig
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel.processes import main_activity, print_on_main, write_once
from xkd_jax.training.compiled_run import Run
from xkd_jax.training.probe import Probes, feature_function
from xkd_jax.training.run_results import PROBES


def probes_of(
    config: ProbeConfig, loader: LoaderConfig, run: Run, dataset: Dataset, test: Dataset
) -> Probes:
    """Returns the run's probes.

    Args:
      config: of the probes.
      loader: data and views of the run.
      run: the jitted functions.
      dataset: the split that they are fitted to, its first `probe.train_records` records.
      test: the split that is scored.

    Raises:
      UserError: the data set has no classes, or several for each record.
    """
    metadata = dataset.metadata
    if len(metadata.class_names) < 2 or metadata.multi_label:
        raise UserError(
            f"The data set {metadata.name} does not have one class for each record, as probes need:"
            " give --config.probe.enabled=False and --config.probe.knn_every=0."
        )
    used = np.arange(min(config.train_records, len(dataset)))

    def batches() -> tuple[Iterable[Batch], Iterable[Batch]]:
        learn = pipeline.eval_batches(loader, dataset, run.rows, records=used)
        return learn, pipeline.eval_batches(loader, test, run.rows)

    classes = len(metadata.class_names)
    encode = feature_function(run.architecture, loader, run.batch_sharding.mesh)
    splits = (loader.data.split, config.split)
    return Probes(config.k, splits, encode, run.batch_sharding, run.batch_size, classes, batches)


def before_and_after(run: Run, state: TrainState, probes: Probes) -> dict[str, dict[str, float]]:
    """Returns linear-probe accuracies of student and teacher, before and after training.

    Args:
      run: the jitted functions.
      state: the state after training.
      probes: the run's probes.

    Returns:
      {"before" or "after": {"{role} {modality}": top-1 accuracy in percent}}.
    """
    print_on_main("probe     before training")
    with main_activity("fitting linear probes before training"):
        untrained = probes.linear({"student": run.initialize().teacher})  # at first they are equal
    print_on_main("probe     after training")
    with main_activity("fitting linear probes after training"):
        trained = probes.linear(both_networks(state, run.architecture))
    return {
        "before": untrained | {k.replace("student", "teacher"): v for k, v in untrained.items()},
        "after": trained,
    }


def both_networks(state: TrainState, architecture: Architecture) -> dict[str, Tree]:
    """Returns both networks' encoder and head parameters, in the structure of `Teacher`."""
    student = teacher_counterpart(state.student, architecture)
    return {"student": student, "teacher": state.teacher}


def report(results: Mapping[str, Mapping[str, float]], workdir: PurePath, classes: int) -> None:
    """Prints the probes' accuracies as a table and writes them to `results.json`.

    Args:
      results: the result of `before_and_after`.
      workdir: folder of the file.
      classes: number of classes of the data set, for the accuracy of a random guess.

    Raises:
      UserError: the file can't be written.
    """
    print_on_main(f"\n{'linear probe, top-1 %':22}" + "".join(f"{moment:>9}" for moment in results))
    for name in results["before"]:
        print_on_main(f"{name:22}" + "".join(f"{results[m][name]:9.1f}" for m in results))
    print_on_main(f"{f'chance, of {classes} classes':22}" + f"{100 / classes:9.1f}" * len(results))
    write_once(workdir / PROBES, {"linear_probe_top1": results})
    print_on_main(f"written   {workdir / PROBES}")
