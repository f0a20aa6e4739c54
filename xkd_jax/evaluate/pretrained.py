"""The networks of a pretraining run's checkpoint, and the views that an evaluation shows them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from data_pipelines import metadata, storage
from xkd_jax import config as xkd_config
from xkd_jax.config import Config, DataConfig
from xkd_jax.errors import UserError
from xkd_jax.evaluate.config import EvalConfig
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.sharding import parameter_shardings
from xkd_jax.state import abstract, construct, parameters
from xkd_jax.step import Stream, stream_key
from xkd_jax.tree import Tree


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What an evaluation takes from a checkpoint.

    Attributes:
      directory: of the run's checkpoints.
      step: of the checkpoint.
      written: when it was, in nanoseconds; tells checkpoints of one name apart.
      config: that the run had.
      parameters: of the evaluated network, in the shape of `Teacher`; none for `log_mel`.
    """

    directory: Path
    step: int
    written: int
    config: Config
    parameters: Tree


def load(config: EvalConfig, mesh: Mesh) -> Pretrained:
    """Reads the network that an evaluation names, sharded over the mesh.

    Raises:
      UserError: there is no such checkpoint, or its config is not of this version.
    """
    directory = _checkpoints(config)
    with ocp.CheckpointManager(
        directory.absolute(), options=ocp.CheckpointManagerOptions(read_only=True)
    ) as manager:
        step = config.step or manager.latest_step()
        if step is None or step not in manager.all_steps():
            known = ", ".join(str(n) for n in manager.all_steps()) or "none"
            raise UserError(
                f"{directory} has no checkpoint of step {config.step or 'any'}: it has {known}."
            )
        run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        pretraining = _saved_config(run["config"], directory)
        tree = _network(manager, step, config, pretraining, mesh)
    return Pretrained(directory, step, _written(directory, step), pretraining, tree)


def _checkpoints(config: EvalConfig) -> Path:
    if not config.checkpoint:
        raise UserError(
            "checkpoint is empty: give --config.checkpoint=RUN, the folder of a pretraining run."
        )
    directory = Path(config.checkpoint)
    if (directory / "checkpoints").is_dir():
        return directory / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"checkpoint {directory} is not a folder: give that of a pretraining run.")
    return directory


def _saved_config(values: dict[str, Any], directory: Path) -> Config:
    try:
        return xkd_config.build(Config, values)
    except UserError as error:
        raise UserError(
            f"{directory} was written by another version of this program: {error}"
        ) from None


def _network(
    manager: ocp.CheckpointManager, step: int, config: EvalConfig, pretraining: Config, mesh: Mesh
) -> Tree:
    if config.network == "log_mel":
        return {}
    shardings = parameter_shardings(Student, pretraining, mesh)
    if config.network == "untrained":
        key = stream_key(pretraining.seed, Stream.INITIALISE)
        fresh = jax.jit(
            lambda: parameters(construct(Student, pretraining, key)), out_shardings=shardings
        )
        return teacher_counterpart(fresh(), pretraining)
    if config.network == "student":
        return teacher_counterpart(
            _restore(manager, step, "student", Student, pretraining, mesh), pretraining
        )
    return _restore(manager, step, "teacher", Teacher, pretraining, mesh)


def _restore(
    manager: ocp.CheckpointManager,
    step: int,
    item: str,
    cls: type[Teacher],
    pretraining: Config,
    mesh: Mesh,
) -> Tree:
    shapes = nnx.to_pure_dict(nnx.state(abstract(cls, pretraining), nnx.Param))
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        parameter_shardings(cls, pretraining, mesh),
    )
    args = ocp.args.Composite(**{item: ocp.args.StandardRestore(like)})
    return manager.restore(step, args=args)[item]


def _written(directory: Path, step: int) -> int:
    told = json.loads((directory / str(step) / "_CHECKPOINT_METADATA").read_text())
    return int(told["commit_timestamp_nsecs"])


def viewing(config: EvalConfig, pretraining: Config) -> Config:
    """The pretraining config with the evaluation's data, batch and global views, and no local ones.

    It is for the data pipeline and the augmentation; the networks are built from `pretraining`.

    Raises:
      UserError: data.dir is empty or no data set, clips.size is no number of patches, or the
        time can't be warped so far.
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
    return dataclasses.replace(
        pretraining,
        seed=config.seed,
        batch_size=config.batch_size,
        mesh=config.mesh,
        video=dataclasses.replace(
            pretraining.video,
            size=config.clips.size or pretraining.video.size,
            local_views=0,
            global_augment=config.clips.video,
        ),
        audio=dataclasses.replace(
            pretraining.audio, local_views=0, global_augment=config.clips.audio
        ),
        data=DataConfig(
            dir=directory,
            short_side=held or pretraining.data.short_side,
            threads=config.data.threads,
            workers=config.data.workers,
            prefetch=config.data.prefetch,
            verify_checksums=config.data.verify_checksums,
        ),
    )
