"""Protocols that train a classifier: linear layer, attentive probe, finetuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality
from data_pipelines.progress import ProgressMeter
from data_pipelines.read import pipeline
from data_pipelines.read.read_ahead import Batch
from xkd_jax.config.evaluation import TRAINED, ClipsConfig, EvalConfig, Protocol
from xkd_jax.config.fit_settings import FitConfig
from xkd_jax.config.pretraining import CheckpointConfig
from xkd_jax.evaluate import fitting
from xkd_jax.evaluate.eval_clips import clip_batches, on_devices
from xkd_jax.evaluate.fit_checkpoints import FitCheckpoints
from xkd_jax.evaluate.fitting import Fit, FitState
from xkd_jax.evaluate.fold_scores import ClassScores
from xkd_jax.evaluate.pretrained import Pretrained
from xkd_jax.evaluate.splits import Benchmark, Fold, some_of_each_class
from xkd_jax.metrics.scores import check_finite, mean_average_precision, top_5, top_k
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.compiled_run import compile_step
from xkd_jax.training.logs import run_sinks
from xkd_jax.training.loop import Loop, Step

# Settings that a resumed training can't change: its state and data depend on them.
_FIXED = ("protocol", "network", "modality", "train_fraction", "seed", "batch_size", "fit")
_FIXED_OF_CLIPS = ("train", "size", *MODALITIES)  # the other keys affect only the test
_LOWER_RATE = "lower fit.learning_rate and give another --workdir"


@dataclasses.dataclass(frozen=True)
class Classification:
    """Trains and tests a classifier on each fold of a benchmark.

    Attributes:
      protocol: one of `TRAINED`.
      modality: modality of the evaluated encoder.
      fit: settings of the training.
      clips: clips of a record.
      save: when the training is saved.
      log_every: steps between lines.
      train_fraction: fraction of each class's training records.
      pretrained: the encoders.
      viewing: the config of the views (`pretrained.viewing`), with seed and batch size.
      mesh: the mesh of devices.
      benchmark: the data.
      workdir: folder of the evaluation.
      fixed: settings that a resumed training can't change (`fixed_settings`).
      listed: the evaluation's config as a table, for its log.
      check_lease: called on every process before writing to `workdir`.
    """

    protocol: Protocol
    modality: Modality
    fit: FitConfig
    clips: ClipsConfig
    save: CheckpointConfig
    log_every: int
    train_fraction: float
    pretrained: Pretrained
    viewing: LoaderConfig
    mesh: jax.sharding.Mesh
    benchmark: Benchmark
    workdir: PurePath
    fixed: Mapping[str, Any]
    listed: str
    check_lease: Callable[[], None] = lambda: None

    def __call__(self, fold: Fold) -> ClassScores:
        """Trains on a fold and returns its metrics in percent.

        Raises:
          UserError: the loss was not finite, or the folder has checkpoints of another training.
        """
        records = self._some(fold.train)
        fit = fitting.create_fit(
            self.fit,
            self.pretrained.network,
            self.viewing,
            self.mesh,
            self._encoder,
            protocol=self.protocol,
            modality=self.modality,
            records=len(records),
            classes=self.benchmark.classes,
        )
        state = self._train(fit, fold.number, records)
        scores, targets = self.score(fit, state, fold.test)
        several = self.benchmark.multi_label
        return ClassScores(
            value=mean_average_precision(scores, targets) if several else top_k(scores, targets, 1),
            top5=None if several else top_5(scores, targets),
            train_records=len(records),
            test_records=len(fold.test),
        )

    @property
    def _encoder(self) -> Tree:
        """Parameters of the evaluated encoder."""
        return self.pretrained.parameters["encoders"][self.modality]

    def _some(self, records: np.ndarray) -> np.ndarray:
        if self.train_fraction == 1:
            return records
        labels = self.benchmark.train_index.label[records]
        rng = np.random.default_rng(self.viewing.seed)
        return records[some_of_each_class(labels, self.train_fraction, rng)[0]]

    def _train(self, fit: Fit, fold: int, records: np.ndarray) -> FitState:
        folder = self.workdir / f"fold{fold}"
        with FitCheckpoints(
            folder / "checkpoints",
            self.save,
            self._made_from(fold),
            len(records),
            self.benchmark.train_index.digest,
            self.check_lease,
        ) as checkpoints:
            state = checkpoints.restore(fit.like)
            state = fit.initialize() if state is None else state
            return self._loop(fit, state, records, checkpoints, folder)

    def _made_from(self, fold: int) -> dict[str, Any]:
        data = {"split": self.benchmark.train_name}
        checkpoint = self.pretrained.identity
        return {**self.fixed, "data": data, "fold": fold, "checkpoint": checkpoint}

    def _loop(
        self,
        fit: Fit,
        state: FitState,
        records: np.ndarray,
        checkpoints: FitCheckpoints,
        folder: PurePath,
    ) -> FitState:
        start, batch_size = int(state.step), self.viewing.batch_size
        sharding = mesh_lib.batch_sharding(self.mesh, batch_size)
        smaller = smaller_steps(self.protocol, batch_size, self.fit.accumulation_steps)
        batches = pipeline.train_batches(
            self.viewing,
            self.benchmark.train,
            mesh_lib.local_rows(sharding, batch_size),
            start,
            modalities=(self.modality,),
            records=records,
        )

        def compile_fit(state: FitState, batch: Batch) -> Step[FitState]:
            compiled = compile_step(
                fit.step,
                state,
                self._encoder,
                batch,
                advice=lambda there, needed: smaller,
            )

            def step(state: FitState, batch: Batch) -> tuple[FitState, dict[str, jax.Array]]:
                state, loss = compiled(state, self._encoder, batch)
                return state, {"loss": loss}

            return step

        sinks = run_sinks.opened(folder, start, {"config": self.listed})
        return Loop(
            steps=fit.steps,
            batch_size=batch_size,
            log_every=self.log_every,
            save_every=self.save.every_steps,
            put=lambda batch: on_devices(batch, (self.modality,), sharding, batch_size),
            compile=compile_fit,
            recover=_refuse_nonfinite,
            measure=lambda state, step, interrupted: {},
            followed=True,  # the test and other folds follow
        ).run(state, start, batches, checkpoints, sinks)

    def score(
        self, fit: Fit, state: FitState, records: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores of records, averaged over clips, and their labels.

        Args:
          fit: the jitted functions.
          state: the state after training.
          records: indices in the test split, int64 [records].

        Returns:
          float32 [records, classes], and int [records] or uint8 [records, classes].

        Raises:
          UserError: a score is not finite.
        """
        clips, batch_size = self.clips.test, self.viewing.batch_size
        batches = clip_batches(
            self.clips, (self.modality,), self.viewing, self.mesh, self.benchmark.test, records,
            "test",
        )  # fmt: skip
        rows, found = len(records) * clips, []
        meter = ProgressMeter("test      clip", rows, "clips")
        for number, batch in enumerate(batches, 1):
            scored = fit.predict(state.trained, self._encoder, batch)
            found.append(jax.tree.map(np.asarray, scored))
            if meter.is_due():
                print_on_main(meter.line(min(number * batch_size, rows)))
        scores, targets = (np.concatenate(part)[:rows] for part in zip(*found, strict=True))
        check_finite(
            scores,
            "The scores of test clips",
            lambda row: self.benchmark.test[int(records[row // clips])].id,
            _LOWER_RATE,
        )
        return scores.reshape(len(records), clips, -1).mean(1), targets[::clips]


def fixed_settings(config: EvalConfig) -> dict[str, Any]:
    """Returns the settings that a resumed training can't change, of JSON types."""
    settings = dataclasses.asdict(config)
    clips = {key: settings["clips"][key] for key in _FIXED_OF_CLIPS}
    return {key: settings[key] for key in _FIXED} | {"clips": clips}


def smaller_steps(protocol: Protocol, batch_size: int, accumulation_steps: int) -> str:
    """Returns the flags with which a step of an evaluation needs less memory.

    Args:
      protocol: of the evaluation.
      batch_size: clips of a batch.
      accumulation_steps: `fit.accumulation_steps`.
    """
    if protocol not in TRAINED:
        return f"--config.batch_size={max(1, batch_size // 2)} or less"
    more = 2 * accumulation_steps
    return f"--config.fit.accumulation_steps={more} or more, or a smaller --config.batch_size"


def _refuse_nonfinite(state: FitState, step: int, bad: dict[int, str]) -> FitState:
    if bad:
        raise UserError(f"The loss is not finite at step {min(bad)}: {_LOWER_RATE}.")
    return state
