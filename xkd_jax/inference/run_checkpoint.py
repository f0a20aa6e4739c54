"""The checkpoints of pretraining runs, as loading and evaluations find them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from data_pipelines.errors import UserError
from xkd_jax.config import dataclass_schema
from xkd_jax.config.pretraining import Architecture, Config
from xkd_jax.method.train_state import abstract
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.training.run_record import RunRecord
from xkd_jax.training.saved_checkpoint import step_folders


class Wording(NamedTuple):
    """How messages name what a person gives: the run, and the step."""

    run: str
    step: str


def checkpoints_folder(source: Path, wording: Wording) -> Path:
    """The folder of a run's checkpoints, given that or the run's own.

    Raises:
      UserError: it is no folder.
    """
    if (source / "checkpoints").is_dir():
        return source / "checkpoints"
    if not source.is_dir():
        raise UserError(f"checkpoint {source} is not a folder: give that of a pretraining run.")
    return source


def step_folder(directory: Path, step: int, wording: Wording) -> Path:
    """The checkpoint's folder: of the step that is asked for, or of 0 the newest.

    Raises:
      UserError: there is none.
    """
    folders = step_folders(Path(os.path.realpath(directory)))
    if not folders:
        raise UserError(
            f"{directory} holds no checkpoint of a pretraining run: give {wording.run}, the run's"
            f" own folder, and {wording.step} for one that is not its newest."
        )
    chosen = [folder for folder in folders if not step or int(folder.name) == step]
    if not chosen:
        known = ", ".join(folder.name for folder in reversed(folders))
        raise UserError(
            f"{directory} has no checkpoint of step {step}: it has {known}, so give one of them by"
            f" {wording.step}."
        )
    return chosen[0]


def saved_config(
    record: RunRecord, directory: Path, wording: Wording, say: Callable[[str], object]
) -> Config:
    """The config that a run was written with.

    Args:
      record: of the checkpoint.
      directory: of the checkpoints, for messages.
      wording: of messages.
      say: is given a line about keys that the run's version did not have.

    Raises:
      UserError: it is of a classifier, or of another version of this program.
    """
    if "protocol" in record.config:
        raise UserError(
            f"{directory} is of a classifier that an evaluation trained: give {wording.run}, the"
            " folder of the pretraining run."
        )
    try:
        config = dataclass_schema.build(Config, record.config)
    except UserError as error:
        raise UserError(
            f"{directory} was written by another version of this program: {error}"
        ) from None
    if lacking := dataclass_schema.lacking(Config, record.config):
        say(
            f"config    {directory} was written without {', '.join(lacking)}: their defaults are"
            " used"
        )
    return config


def shapes_of(
    cls: type[Teacher], architecture: Architecture, shardings: Tree | jax.sharding.Sharding
) -> Tree:
    """Shapes, dtypes and shardings of a network's parameters, to read them by.

    Args:
      cls: `Student` or `Teacher`.
      architecture: of the networks.
      shardings: a tree of the parameters' shape, or one sharding for all.
    """
    shapes = nnx.to_pure_dict(nnx.state(abstract(cls, architecture), nnx.Param))
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        shapes,
        shardings,
    )


NETWORKS: dict[str, type[Teacher]] = {"student": Student, "teacher": Teacher}
