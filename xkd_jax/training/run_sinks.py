"""The places that a training writes its metrics to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from xkd_jax.parallel.processes import is_main_process
from xkd_jax.training.metric_sinks import Sink, Sinks
from xkd_jax.training.metrics_file import MetricsFile
from xkd_jax.training.progress import Scalars


def opened(folder: PurePath, start: int, texts: Mapping[str, str], *more: Sink) -> Sinks:
    """Returns TensorBoard's files and `metrics.jsonl`, written by the main process.

    Args:
      folder: folder or URL of the training.
      start: number of steps made before.
      texts: {tag: Markdown} for TensorBoard.
      *more: further sinks.
    """
    if not is_main_process():
        return Sinks([])
    scalars = Scalars(folder / "tensorboard", enabled=True, start=start, texts=texts)
    return Sinks([scalars, MetricsFile(folder, start), *more])
