"""The file `result.json` of an evaluation, read."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from xkd_jax.config.dataclass_schema import build
from xkd_jax.config.evaluation import Evaluated, Protocol
from xkd_jax.config.loss_settings import LossConfig

FILE = "result.json"  # in the folder of the evaluation


@dataclasses.dataclass(frozen=True)
class Result:
    """The content of a result file that tables and model cards show.

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


def read(file: PurePath) -> Result:
    """Reads a result file.

    Raises:
      UserError: the file can't be read, or is not a result.
    """
    try:
        return _result(str(file), json.loads(storage.read(str(file))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise not_a_result(file, error) from None


def not_a_result(file: PurePath | str, error: Exception) -> UserError:
    """Returns the error for a file whose content can't be used.

    Args:
      file: path of the file.
      error: raised by its reading.
    """
    lacks = "it lacks " if isinstance(error, KeyError) else ""
    fault = lacks + str(error).rstrip(".")
    return UserError(f"{file} is not a result of an evaluation ({fault}): move it away.")


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


def also(per_fold: Sequence[Mapping[str, Any]], digits: int) -> list[str]:
    """Returns texts of the other metrics, top-5 and recalls, as means over folds.

    Args:
      per_fold: metrics of each fold, as in the file.
      digits: number of decimals.
    """

    def mean(name: str) -> str:
        return f"{statistics.fmean(fold[name] for fold in per_fold):.{digits}f}"

    texts = [f"top-5 {mean('top5')}"] if "top5" in per_fold[0] else []
    recalls: dict[str, dict[str, str]] = {}  # by query, and by k
    for name in per_fold[0]:
        asked, recall, k = name.partition("_recall_")
        if recall:
            recalls.setdefault(asked.replace("_", " "), {})[k] = mean(name)
    for asked, by_k in recalls.items():
        texts.append(f"{asked} {', '.join(by_k.values())} at {', '.join(by_k)}")
    return texts
