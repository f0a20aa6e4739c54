"""The first and last lines of a run: its settings, and the next command."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import PurePath

from jax.sharding import Mesh

from data_pipelines.loader_config import ViewConfig
from data_pipelines.terminal import count, main_command
from xkd_jax.config import listing
from xkd_jax.config.length import Length
from xkd_jax.config.loss_settings import losses_of
from xkd_jax.config.pretraining import Config
from xkd_jax.method import state_shardings
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.networks import attention
from xkd_jax.networks.precision import compute_dtype
from xkd_jax.networks.remat import chosen
from xkd_jax.training.logs.progress import grouped

_SHARED = {"xkd": "no shared blocks", "mas": "shared student blocks", "mats": "shared blocks"}
# A run of less than this fraction of its config file's steps is called short.
_SHORT = 0.5


def lines(
    config: Config, written: Config | None, records: int, length: Length, mesh: Mesh
) -> Iterator[str]:
    """Yields the first lines of a run.

    Args:
      config: the run's config.
      written: config of the file without overrides; None: not known.
      records: number of records of the training split.
      length: length of the run.
      mesh: the mesh of devices.
    """
    yield from _method(config, mesh)
    split = config.mesh.optimizer == "split"
    yield state_shardings.describe(config.architecture, mesh, split=split)
    yield f"data      {count(records, 'record')}, batch {config.batch_size}"
    if records < config.batch_size:
        are, less = ("are", " or less") if records > 1 else ("is", "")
        yield (
            f"note      {count(records, 'record')} {are} fewer than a batch of {config.batch_size}:"
            f" every batch repeats some; give --config.batch_size={records}{less}, or more data"
        )
    yield f"run       {count(length.steps, 'step')} of {length.steps_per_epoch} an epoch"
    if written is not None:
        yield listing.flags_line(written, config)
        yield from _short(length, written.length(records))


def last_lines(
    config: Config, written: Config | None, records: int, workdir: PurePath, directory: str
) -> Iterator[str]:
    """Yields the last lines of a run: a note if it was short, and the next command.

    Args:
      config: the run's config.
      written: as for `lines`.
      records: number of records of the training split.
      workdir: folder of the run.
      directory: folder of its shards.
    """
    if written is not None:
        yield from _short(config.length(records), written.length(records))
    digits = config.data.dataset == "spoken_digits"
    name = "spoken_digits" if digits else "knn"
    modality = config.modalities[0]
    flags = {
        "config": f"configs/eval/{name}.py:{modality}",
        "config.checkpoint": str(workdir),
        "config.data.dir": directory,
        "workdir": f"{workdir}_{name}_{modality}",
    }
    given = " ".join(f"--{flag}={shlex.quote(value)}" for flag, value in flags.items())
    yield f"next      {main_command()} {given}"


def _short(length: Length, whole: Length) -> Iterator[str]:
    """Yields a note if a run is much shorter than that of its config file."""
    if length.steps < _SHORT * whole.steps:
        yield (
            f"note      {length.steps:,} of the config file's {whole.steps:,} steps are too few to"
            " show an effect"
        )


def _method(config: Config, mesh: Mesh) -> Iterator[str]:
    loss, model = config.loss, config.model
    if len(config.modalities) > 1:
        yield (
            f"method    {model.variant} ({_SHARED[model.variant]}), refinement {loss.refinement},"
            f" teacher view {loss.teacher_view}, alignment {loss.alignment}"
        )
    else:
        yield f"method    {config.modalities[0]} only: reconstruction, no cross-modal losses"
    for modality in config.modalities:
        yield f"{modality:9} {_views(config.modality(modality))}"
    weights = ActiveLosses.of(loss.weights).weights
    possible = losses_of(config.modalities)
    off = [n for n in dataclasses.asdict(loss.weights) if n in possible and n not in weights]
    yield f"losses    {grouped(weights)}" + (f"; off: {', '.join(off)}" if off else "")
    device = mesh.devices.flat[0]
    yield (
        f"network   {model.size}, {compute_dtype(model, device)},"
        f" attention {attention.describe(model, device)}, remat {chosen(model.remat, device)}"
    )


def _views(view: ViewConfig) -> str:
    shape, patch, local = (
        " x ".join(map(str, sides)) for sides in (view.global_shape, view.patch, view.local_shape)
    )
    seen = round(view.tokens * (1 - view.mask_ratio))
    views = f", {count(view.local_views, 'local view')} of {local}" if view.local_views else ""
    return (
        f"{shape} in patches of {patch}: {view.tokens} tokens, {view.mask_ratio:.0%} masked,"
        f" {seen} encoded{views}"
    )
