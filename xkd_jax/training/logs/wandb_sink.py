"""Metrics of a run for Weights & Biases, by the package of that name (the extra `wandb`)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.parallel.processes import print_on_main, write_once
from xkd_jax.training.logs.metric_sinks import Sink, WriteWarning

FILE = "wandb.json"  # in the run's folder


def check(project: str) -> None:
    """Checks that a run can write to a project, as far as that can be known without it.

    Args:
      project: name; empty: none.

    Raises:
      UserError: the package is not installed.
    """
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"wandb is {project!r}, and its package is not installed: pip install wandb, or leave"
            " out --config.wandb."
        )


class WandbSink(Sink):
    """A run at Weights & Biases, which all starts of the program continue.

    Its identifier is in the run's folder. The variables of the package apply: WANDB_MODE=offline
    writes files for a later `wandb sync`. Steps that an earlier start has sent are not sent again.
    """

    def __init__(self, project: str, workdir: PurePath, config: Mapping[str, Any]):
        """Connects, or begins the files.

        Args:
          project: name.
          workdir: folder or URL of the run; the package's files are in a folder, by default.
          config: nested dictionaries of JSON types.

        Raises:
          UserError: the package can't connect.
        """
        import wandb  # imported here because that takes long

        folder = str(workdir) if isinstance(workdir, Path) else None
        self._warning = WriteWarning(workdir / "wandb", "metrics at Weights & Biases")
        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project,
                name=workdir.name,
                id=_identifier(workdir),
                resume="allow",
                config=dict(config),
                dir=os.environ.get("WANDB_DIR", folder),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except (wandb.Error, OSError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"Weights & Biases can't be used ({reason}): run wandb login, set"
                " WANDB_MODE=offline, or leave out --config.wandb."
            ) from None
        print_on_main(f"wandb     {self._run.dir if self._run.offline else self._run.url}")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends the `scalars` of one `step`; an error becomes a warning."""
        self._log(step, dict(scalars))

    def draw(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Sends the `images` of one `step`, uint8 [height, width, 3]; errors as in `write`."""
        self._log(step, {tag: self._wandb.Image(image) for tag, image in images.items()})

    def close(self) -> None:
        """Sends remaining data; errors as in `write`."""
        with self._errors():
            self._run.finish()

    def _log(self, step: int, values: dict[str, Any]) -> None:
        with self._errors():
            self._run.log(values, step=step)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Also catches errors of the package."""
        with self._warning.errors():
            try:
                yield
            except self._wandb.Error as error:
                raise UserError(str(error)) from None


def _identifier(workdir: PurePath) -> str:
    """Returns the identifier of the run, which its first start chooses."""
    path = workdir / FILE
    try:
        return str(json.loads(storage.read(str(path)))["id"])
    except FileNotFoundError:
        found = secrets.token_hex(4)
        write_once(path, {"id": found})
        return found
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} can't be used: remove it, for a new run there.") from None
