"""Access to checkpoints of pretraining runs, for loading and evaluations."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import jax
from flax import nnx

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config import dataclass_schema
from xkd_jax.config.architecture import Architecture
from xkd_jax.config.encoder import EncoderConfig, input_view
from xkd_jax.config.pretraining import Config
from xkd_jax.inference.formats.format import DecoderWeights, EncoderWeights
from xkd_jax.inference.loaded import Loaded, Origin
from xkd_jax.method.train_state import abstract
from xkd_jax.networks import precision
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.networks.tree import Tree
from xkd_jax.training.checkpoints.checkpoint_errors import DamagedError
from xkd_jax.training.checkpoints.run_record import RunRecord
from xkd_jax.training.checkpoints.saved_checkpoint import (
    read_checked,
    read_record,
    step_folders,
    step_of,
)

# (network, its architecture) -> shardings of its parameters: a tree, or one for all.
Shardings = Callable[[type[Teacher], Architecture], Tree | jax.sharding.Sharding]

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
    return storage.is_folder(os.path.join(path, _CHECKPOINTS))


def checkpoints_folder(source: PurePath, wording: Wording) -> PurePath:
    """Returns the folder of a run's checkpoints.

    Args:
      source: that folder or URL, or the run's.
      wording: words of messages.

    Raises:
      UserError: `source` is not a folder.
    """
    if is_run(source):
        return source / _CHECKPOINTS
    if not storage.is_folder(str(source)):
        raise UserError(f"checkpoint {source} is not a folder: give that of a pretraining run.")
    return source


def step_folder(directory: PurePath, step: int, wording: Wording) -> PurePath:
    """Returns the folder of a checkpoint.

    Args:
      directory: folder of the run's checkpoints.
      step: the checkpoint's step; 0: the newest.
      wording: words of messages.

    Raises:
      UserError: the checkpoint does not exist.
    """
    if isinstance(directory, Path):
        directory = Path(os.path.realpath(directory))
    folders = step_folders(directory)
    if not folders:
        raise UserError(
            f"{directory} holds no checkpoint of a pretraining run: give {wording.run}, the folder"
            f" of the run, and {wording.step} for a checkpoint that is not the newest."
        )
    chosen = [folder for folder in folders if not step or step_of(folder) == step]
    if not chosen:
        known = ", ".join(str(step_of(folder)) for folder in reversed(folders))
        raise UserError(
            f"{directory} has no checkpoint of step {step}: it has {known}, so give one of them by"
            f" {wording.step}."
        )
    return chosen[0]


def saved_config(
    record: RunRecord, directory: PurePath, wording: Wording, print_line: Callable[[str], object]
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
            f"{directory} was written by another version of this program"
            f" ({str(error).rstrip('.')}): use that version."
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


def encoders_of_run(tree: Tree, architecture: Architecture) -> dict[Modality, EncoderWeights]:
    """Returns the separate encoders, and decoders, of a student's or a teacher's parameters.

    Args:
      tree: parameters in the structure of `Student` or `Teacher`.
      architecture: architecture of the networks.
    """
    model, views = architecture.model, architecture.views
    encoders, decoders = tree["encoders"], tree.get("decoders", {})

    def decoder(m: Modality) -> DecoderWeights | None:
        if m not in decoders:
            return None
        return DecoderWeights(model.decoder, views[m].mask_ratio, decoders[m])

    return {
        m: EncoderWeights(
            EncoderConfig(model.encoder, input_view(views[m])),
            {
                "embedding": encoders["embeddings"][m],
                "blocks": encoders["blocks"].get(m) or encoders["blocks"][SHARED],
                "norm": encoders["norms"][m],
            },
            decoder(m),
        )
        for m in MODALITIES
        if m in encoders["embeddings"]
    }


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """One checkpoint of a pretraining run.

    Attributes:
      folder: its folder.
      record: its record.
      config: the run's config.
      wording: words of messages.
    """

    folder: PurePath
    record: RunRecord
    config: Config
    wording: Wording

    def tree(self, network: str, shardings: Shardings) -> Tree:
        """Reads the parameters of `student` or `teacher`, in the structure of its class.

        Args:
          network: which one.
          shardings: where they are placed.

        Raises:
          UserError: the checkpoint is damaged.
        """
        cls, architecture = NETWORKS[network], self.config.architecture
        like = shapes_of(cls, architecture, shardings(cls, architecture))
        with _damage(self.folder, self.wording):
            return read_checked(self.folder, self.record, network, like)

    def loaded(self, network: str, source: str) -> Loaded:
        """Reads the encoders of `student` or `teacher`, to the first local device.

        Args:
          network: which one.
          source: the run's path, as the user gave it.

        Raises:
          UserError: the checkpoint is damaged.
        """
        config, device = self.config, jax.local_devices()[0]
        here = jax.sharding.SingleDeviceSharding(device)
        tree = self.tree(network, lambda cls, architecture: here)
        return Loaded(
            encoders_of_run(tree, config.architecture),
            Origin(source, "a run", network, self.record.step),
            precision.compute_dtype(config.model, device),
            config.data.short_side,
        )


def opened(
    source: PurePath, step: int, wording: Wording, print_line: Callable[[str], object]
) -> RunCheckpoint:
    """Reads the record of a run's checkpoint.

    Args:
      source: the run's folder, or the folder of its checkpoints.
      step: the checkpoint's step; 0: the newest.
      wording: words of messages.
      print_line: called with a line about keys that the record does not have.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or not a pretraining run's.
    """
    directory = checkpoints_folder(source, wording)
    chosen = step_folder(directory, step, wording)
    with _damage(chosen, wording):
        record = read_record(chosen)
    config = saved_config(record, directory, wording, print_line)
    return RunCheckpoint(chosen, record, config, wording)


@contextlib.contextmanager
def _damage(folder: PurePath, wording: Wording) -> Iterator[None]:
    """Converts damage of a checkpoint to a message for the user."""
    try:
        yield
    except DamagedError as damage:
        raise UserError(
            f"The checkpoint {folder} is damaged ({damage}): restore a copy of it, or give another"
            f" step by {wording.step}."
        ) from damage


NETWORKS: dict[str, type[Teacher]] = {"student": Student, "teacher": Teacher}
