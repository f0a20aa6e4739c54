"""Access to checkpoints of pretraining runs, for loading and evaluations."""

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

# The subfolder of a run that has its checkpoints.
_CHECKPOINTS = "checkpoints"


class Wording(NamedTuple):
    """Words of messages for the arguments of a command or function.

    run: the argument with the run's folder.
    step: the argument with the step.
    """

    run: str
    step: str


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a run with checkpoints; it has a config.json too."""
    return os.path.isdir(os.path.join(path, _CHECKPOINTS))


def checkpoints_folder(source: Path, wording: Wording) -> Path:
    """Returns the folder of a run's checkpoints.

    Args:
      source: that folder, or the run's folder.
      wording: words of messages.

    Raises:
      UserError: `source` is not a folder.
    """
    if is_run(source):
        return source / _CHECKPOINTS
    if not source.is_dir():
        raise UserError(f"checkpoint {source} is not a folder: give that of a pretraining run.")
    return source


def step_folder(directory: Path, step: int, wording: Wording) -> Path:
    """Returns the folder of a checkpoint.

    Args:
      directory: folder of the run's checkpoints.
      step: the checkpoint's step; 0: the newest.
      wording: words of messages.

    Raises:
      UserError: the checkpoint does not exist.
    """
    folders = step_folders(Path(os.path.realpath(directory)))
    if not folders:
        raise UserError(
            f"{directory} holds no checkpoint of a pretraining run: give {wording.run}, the folder"
            f" of the run, and {wording.step} for a checkpoint that is not the newest."
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
    record: RunRecord, directory: Path, wording: Wording, print_line: Callable[[str], object]
) -> Config:
    """Returns the config in a checkpoint's record.

    Args:
      record: record of the checkpoint.
      directory: folder of the checkpoints, for messages.
      wording: words of messages.
      print_line: called with a line about keys that the record does not have.

    Raises:
      UserError: the record is a classifier's, or of another version of this program.
    """
    if "protocol" in record.config:
        raise UserError(
            f"{directory} has a classifier that an evaluation trained: give {wording.run}, the"
            " folder of the pretraining run."
        )
    try:
        config = dataclass_schema.build(Config, record.config)
    except UserError as error:
        raise UserError(
            f"{directory} was written by another version of this program: {error}"
        ) from None
    if lacking := dataclass_schema.lacking(Config, record.config):
        print_line(
            f"config    {directory} was written without {', '.join(lacking)}: their defaults are"
            " used"
        )
    return config


def shapes_of(
    cls: type[Teacher], architecture: Architecture, shardings: Tree | jax.sharding.Sharding
) -> Tree:
    """Returns shapes, dtypes and shardings of a network's parameters.

    Args:
      cls: `Student` or `Teacher`.
      architecture: architecture of the networks.
      shardings: a tree in the structure of the parameters, or one sharding for all.
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
