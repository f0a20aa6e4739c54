"""The places that a training writes its metrics to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from xkd_jax.parallel.processes import is_main_process, run_on_all
from xkd_jax.training.logs.metric_sinks import Sink, Sinks
from xkd_jax.training.logs.metrics_file import MetricsFile
from xkd_jax.training.logs.progress import Scalars
from xkd_jax.training.logs.wandb_sink import WandbSink


def opened(
    folder: PurePath,
    start: int,
    texts: Mapping[str, str],
    *more: Sink,
    project: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Sinks:
    """Returns TensorBoard's files, `metrics.jsonl` and others, written by the main process.

    Args:
      folder: folder or URL of the training.
      start: number of steps made before.
      texts: {tag: Markdown} for TensorBoard.
      *more: further sinks.
      project: of Weights & Biases; empty: none.
      settings: config for that project, nested dictionaries of JSON types.

    Raises:
      UserError: Weights & Biases can't be used.
    """

    def open_all() -> Sinks:
        if not is_main_process():
            return Sinks([])
        scalars = Scalars(folder / "tensorboard", enabled=True, start=start, texts=texts)
        sinks = [scalars, MetricsFile(folder, start), *more]
        if project:
            sinks.append(WandbSink(project, folder, settings or {}))
        return Sinks(sinks)

    return run_on_all(open_all)
