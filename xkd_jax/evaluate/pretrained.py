"""The network of a pretraining checkpoint, and the config of an evaluation's views."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines.errors import UserError
from data_pipelines.format import metadata, storage
from data_pipelines.loader_config import MODALITIES, DataConfig, LoaderConfig
from xkd_jax.config.evaluation import EvalConfig
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import run_checkpoint
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.method.state_shardings import parameter_shardings
from xkd_jax.method.train_state import construct, parameters
from xkd_jax.networks.student import Student, teacher_counterpart
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.checkpoint_errors import DamagedError
from xkd_jax.training.run_record import RunRecord
from xkd_jax.training.saved_checkpoint import read_checked, read_record

_WORDING = run_checkpoint.Wording("--config.checkpoint=RUN", "--config.step=N")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The network of a checkpoint.

    Attributes:
      directory: folder of the run's checkpoints.
      step: step of the checkpoint.
      crc32: checksum of its record, which has the digests of its arrays; identifies the checkpoint.
      config: config of the run.
      parameters: parameters of the network in the structure of `Teacher`; {} for `log_mel`.
    """

    directory: Path
    step: int
    crc32: int
    config: Config
    parameters: Tree


def load(config: EvalConfig, mesh: Mesh) -> Pretrained:
    """Reads the network of an evaluation, sharded over the mesh.

    Raises:
      UserError: the checkpoint does not exist, is damaged, or another version wrote it.
    """
    directory = _checkpoints(config)
    folder = run_checkpoint.step_folder(directory, config.step, _WORDING)
    try:
        record = read_record(folder)
        made = {"step": record.step, "crc32": record.to_json()["crc32"]}
        agreement.require({f"checkpoint {folder}": made})
        pretraining = run_checkpoint.saved_config(record, directory, _WORDING, print_on_main)
        _check_modalities(config, pretraining, directory)
        tree = _network(folder, record, config, pretraining, mesh)
    except DamagedError as damage:
        raise UserError(
            f"The checkpoint {folder} is damaged ({damage}): put back a copy of it, or give"
            " another one by --config.step."
        ) from damage
    return Pretrained(directory, record.step, record.to_json()["crc32"], pretraining, tree)


def _checkpoints(config: EvalConfig) -> Path:
    if not config.checkpoint:
        raise UserError(
            "checkpoint is empty: give --config.checkpoint=RUN, the folder of a pretraining run."
        )
    return run_checkpoint.checkpoints_folder(Path(config.checkpoint), _WORDING)


def _check_modalities(config: EvalConfig, pretraining: Config, directory: Path) -> None:
    held = pretraining.modalities
    lacking = [m for m in config.modalities if m not in held]
    if not lacking or config.network == "log_mel":
        return
    remedy = (
        "give a run of both by --config.checkpoint"
        if config.protocol == "retrieval"
        else f"give --config.modality={held[0]}, or another run by --config.checkpoint"
    )
    raise UserError(
        f"The run of {directory} was trained with modalities {','.join(held)} and has no network of"
        f" {lacking[0]}: {remedy}."
    )


def _network(
    folder: Path, record: RunRecord, config: EvalConfig, pretraining: Config, mesh: Mesh
) -> Tree:
    if config.network == "log_mel":
        return {}
    architecture = pretraining.architecture
    if config.network == "untrained":
        key = stream_key(pretraining.seed, INITIALIZE)
        fresh = jax.jit(
            lambda: parameters(construct(Student, architecture, key)),
            out_shardings=parameter_shardings(Student, architecture, mesh),
        )
        return teacher_counterpart(fresh(), pretraining.architecture)
    cls = run_checkpoint.NETWORKS[config.network]
    like = run_checkpoint.shapes_of(cls, architecture, parameter_shardings(cls, architecture, mesh))
    tree = read_checked(folder, record, config.network, like)
    return teacher_counterpart(tree, architecture) if cls is Student else tree


def viewing(config: EvalConfig, pretraining: LoaderConfig) -> LoaderConfig:
    """Returns the loader's config of an evaluation, with global views only.

    Data, batch, size and augmentation are the evaluation's; rates and lengths those of pretraining.

    Raises:
      UserError: data.dir is empty or not a data set, clips.size is not a multiple of the patch, or
        fit.augment.time_warp is too large.
    """
    directory = config.data.dir
    if not directory:
        raise UserError(
            "data.dir is empty: give --config.data.dir=SHARDS, made of the benchmark's files by"
            " python -m data_pipelines.build."
        )
    patch = pretraining.video.patch[1]
    if config.clips.size % patch:
        raise UserError(f"clips.size is {config.clips.size}: give a multiple of {patch}, or 0.")
    columns = pretraining.audio.columns
    if 2 * config.fit.augment.time_warp >= columns:
        raise UserError(
            f"fit.augment.time_warp is {config.fit.augment.time_warp}: give less than half of the"
            f" network's {columns} columns."
        )
    described = metadata.FILE in storage.sizes(directory)
    held = metadata.read(directory).short_side if described else 0
    views = {m: _plain(pretraining.modality(m), getattr(config.clips, m)) for m in MODALITIES}
    views["video"] = dataclasses.replace(
        views["video"], size=config.clips.size or pretraining.video.size
    )
    return LoaderConfig(
        seed=config.seed,
        batch_size=config.batch_size,
        modalities=pretraining.modalities,
        **views,
        data=DataConfig(
            dir=directory,
            short_side=held or pretraining.data.short_side,
            threads=config.data.threads,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            verify_checksums=config.data.verify_checksums,
        ),
    )


def _plain(view: Any, augment: Any) -> Any:
    """Returns the views of a modality without local views, and with another augmentation."""
    return dataclasses.replace(view, local_views=0, global_augment=augment)
