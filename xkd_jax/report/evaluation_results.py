"""Results of evaluations, read from their files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.evaluation import Evaluated, Protocol
from xkd_jax.config.pretraining import LossConfig
from xkd_jax.evaluate.fold_scores import also
from xkd_jax.report import published
from xkd_jax.training.run_results import FILE, files_below


@dataclasses.dataclass(frozen=True)
class Result:
    """The content of one result file that tables show.

    Attributes:
      file: path of the file.
      benchmark: this field and those up to `value` are as in the file.
      data: name of the data set; empty if the file has none.
      left_out: number of the data set's files that are missing in its shards.
      output: output of the network that features are from.
      step: step of the run's checkpoint; None: weights of a file.
      folds: value of each fold.
      held_out: value of each fold with the cost that was chosen on held-out training records; empty
        without such a choice.
      also: other metrics, as text.
      chance: value of a random guess in percent; None: unknown.
      class_names: of the data set; empty: unknown.
      loss: losses of the run; the defaults for weights of a file.
      config: config of the evaluation.
    """

    file: str
    benchmark: str
    protocol: Protocol
    modality: Evaluated
    network: str
    variant: str
    size: str
    train_fraction: float
    metric: str
    value: float
    data: str
    left_out: int
    output: Literal["encoder", "head"]
    step: int | None
    folds: tuple[float, ...]
    held_out: tuple[float, ...]
    also: tuple[str, ...]
    chance: float | None
    class_names: tuple[str, ...]
    loss: LossConfig
    config: dict

    @property
    def table(self) -> str:
        """Key of its table in `result_tables.TITLES`."""
        if self.train_fraction < 1:
            return "low_shot"
        return "linear" if self.protocol == "svm" else self.protocol

    @property
    def losses(self) -> str:
        """Losses of the pretraining, as text; empty for an untrained network."""
        if self.step is None or self.network in ("untrained", "log_mel"):
            return ""
        return published.losses(self.loss)


def load(paths: Sequence[str]) -> list[Result]:
    """Reads result files, each one once.

    Args:
      paths: files, or folders that contain them.

    Raises:
      UserError: a folder contains no result file, or a file is not a result.
    """
    files: dict[PurePath, None] = {}
    for path in map(storage.location, paths):
        found = files_below(path, FILE) if storage.is_folder(str(path)) else [path]
        if not found or not storage.exists(str(found[0])):
            raise UserError(f"{path} has no {FILE}: give the workdirs of finished evaluations.")
        files |= dict.fromkeys(f.resolve() if isinstance(f, Path) else f for f in found)
    return [_read(file) for file in files]


def _read(file: PurePath) -> Result:
    try:
        result = _result(str(file), json.loads(storage.read(str(file))))
        published.differences(result.config, result.table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        fault = lacks + str(error).rstrip(".")
        raise UserError(
            f"{file} is not a result of an evaluation ({fault}): leave it out."
        ) from None
    return result


def _result(file: str, content: dict[str, Any]) -> Result:
    names = (
        "benchmark", "protocol", "modality", "network", "variant", "size", "train_fraction",
        "metric", "value", "config",
    )  # fmt: skip
    folds, data = content["per_fold"], content.get("data", {})
    held_out = [fold.get("top1_held_out_cost") for fold in folds]
    values = {
        "file": file,
        **{name: content[name] for name in names},
        "data": data.get("name", ""),
        "left_out": sum(data.get("left_out", {}).values()),
        "output": content["config"]["output"],
        "step": content["checkpoint"].get("step"),
        "folds": [fold["value"] for fold in folds],
        "held_out": () if None in held_out else held_out,
        "also": also(folds, digits=1) if folds else (),
        "chance": content.get("chance"),
        "class_names": data.get("class_names", ()),
        "loss": content["pretraining"]["loss"] if content["pretraining"] else {},
    }
    result = build(Result, values)
    if not result.folds or not all(
        map(math.isfinite, (result.value, *result.folds, *result.held_out))
    ):
        raise ValueError(f"its value is {result.value} over {len(result.folds)} folds")
    return result
