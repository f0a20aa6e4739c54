"""The file and the line that an evaluation ends with."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np

import xkd_jax
from xkd_jax.evaluate.config import EvalConfig
from xkd_jax.evaluate.pretrained import Pretrained
from xkd_jax.processes import announce, write_once

FILE = "result.json"
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def finish(
    config: EvalConfig,
    pretrained: Pretrained,
    metric: str,
    per_fold: list[dict[str, Any]],
    workdir: Path,
) -> dict[str, Any]:
    """Writes `result.json`, prints its line and returns its content.

    Args:
      config: the evaluation's.
      pretrained: what was evaluated.
      metric: name of the folds' `value`.
      per_fold: each fold's scores, with `fold` and `value`.
      workdir: the run's folder.
    """
    values = [fold["value"] for fold in per_fold]
    content = {
        "benchmark": config.benchmark,
        "protocol": config.protocol,
        "modality": config.modality,
        "network": config.network,
        "variant": pretrained.config.model.variant,
        "size": pretrained.config.model.size,
        "share": config.share,
        "metric": metric,
        "value": float(np.mean(values)),
        "per_fold": per_fold,
        "checkpoint": {
            "directory": str(pretrained.directory.absolute()),
            "step": pretrained.step,
            "crc32": pretrained.crc32,
        },
        "config": dataclasses.asdict(config),
        "pretraining": dataclasses.asdict(pretrained.config),
        "versions": {
            "xkd_jax": xkd_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }
    write_once(workdir / FILE, content)
    announce(f"result    {line(content)}\nwritten   {workdir / FILE}")
    return content


def line(content: dict[str, Any]) -> str:
    """One result in one line."""
    folds = [fold["value"] for fold in content["per_fold"]]
    spread = f" (folds {', '.join(f'{v:.2f}' for v in folds)})" if len(folds) > 1 else ""
    share = f", {100 * content['share']:g} % of the labels" if content["share"] < 1 else ""
    return (
        f"{content['benchmark']}, {content['protocol']}, {content['modality']},"
        f" {content['network']}{share}: {content['metric']} {content['value']:.2f} %{spread}"
    )
