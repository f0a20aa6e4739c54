"""The shards of a run; spoken digits and shards of a folder of videos are made on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from data_pipelines import spoken_digits
from data_pipelines.errors import UserError
from data_pipelines.loader_config import DataConfig, LoaderConfig
from xkd_jax.config.pretraining import ProbeConfig
from xkd_jax.parallel.processes import main_activity, main_first, print_on_main


def check(data: DataConfig) -> None:
    """Checks that a run has data.

    Raises:
      UserError: `data.dir` and `data.videos` are empty, or `data.videos` is given with digits.
    """
    if data.dataset == "spoken_digits":
        if data.videos:
            raise UserError(
                f"data.videos is {data.videos} and data.dataset is 'spoken_digits': give"
                " --config.data.dataset=shards, or leave data.videos out."
            )
    elif not data.dir and not data.videos:
        raise UserError(
            "data.dir is empty: give --config.data.videos=VIDEOS, a folder, or"
            " --config.data.dir=SHARDS, made by python -m data_pipelines.build."
        )


def folder_of(data: DataConfig, workdir: PurePath) -> str:
    """Returns the folder of the shards: `data.dir`, or `data` in the run's folder."""
    return data.dir or str(workdir / "data")


def directory(
    config: LoaderConfig,
    probe: ProbeConfig,
    workdir: PurePath,
    check_run: Callable[[], None] = lambda: None,
) -> str:
    """Returns the folder of the shards, which are made there on first use.

    Args:
      config: data and views of the run.
      probe: settings of the probes, which may need another split.
      workdir: folder of the run.
      check_run: called before shards are made of videos, which takes long.

    Raises:
      UserError: they can't be made, or the folder has other data.
      StoppedError: the program was preempted; the same command resumes.
    """
    folder = folder_of(config.data, workdir)
    if config.data.dataset == "spoken_digits":
        with main_activity("making spoken digits"):
            main_first(lambda: spoken_digits.build(config, folder, print_on_main))
    elif config.data.videos:
        from xkd_jax.training.data import (
            video_shards,  # loads decoders, which other runs don't need
        )

        video_shards.make(config, probe, folder, check_run)
    return folder
