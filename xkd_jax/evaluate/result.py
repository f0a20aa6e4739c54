"""The result file and result line of an evaluation."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from xkd_jax.config.encoder import input_fields
from xkd_jax.config.evaluation import CIRCUMSTANCES, EvalConfig
from xkd_jax.evaluate.data_set import DataSummary
from xkd_jax.evaluate.fold_scores import FoldScores
from xkd_jax.evaluate.pretrained import Pretrained
from xkd_jax.parallel.processes import on_main, print_on_main, write_once
from xkd_jax.training.checkpoints.run_record import differences
from xkd_jax.training.checkpoints.versions import versions
from xkd_jax.training.result_file import FILE, also


@dataclasses.dataclass(frozen=True)
class Measured:
    """Results of an evaluation.

    Attributes:
      metric: name of the folds' `value`.
      scores: {number of the fold: its metrics}.
      chance: value of a random guess in percent; None: unknown.
    """

    metric: str
    scores: Mapping[int, FoldScores]
    chance: float | None


def refuse_other(
    config: EvalConfig, pretrained: Pretrained, data: DataSummary, workdir: PurePath
) -> None:
    """Checks that the folder has no result of another evaluation.

    Args:
      config: config of the evaluation.
      pretrained: the encoders.
      data: summary of the data.
      workdir: folder of the evaluation.

    Raises:
      UserError: the folder has a result with other settings, checkpoint or data, or a file of that
        name that is not a result.
    """
    now = {
        "config": dataclasses.asdict(config),
        "checkpoint": pretrained.identity,
        "data": {"digest": data.digest},
    }
    on_main(lambda: _refuse_other(workdir / FILE, json.loads(json.dumps(now))))


def _refuse_other(path: PurePath, now: dict[str, Any]) -> None:
    if not storage.exists(str(path)):
        return
    try:
        content = json.loads(storage.read(str(path)))
        content["config"], content["checkpoint"]
        was = {part: {key: content.get(part, {}).get(key) for key in now[part]} for part in now}
    except OSError as error:
        raise file_error(
            error,
            f"{path} can't be read ({error.strerror}): make it readable, or give another"
            " --workdir.",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not a result of an evaluation: move it away, or give another --workdir."
        ) from None
    circumstances = tuple(f"config.{key}" for key in CIRCUMSTANCES)
    for name, before, after in differences("", was, now):
        # keys that the result's program did not have are not compared
        if before is not None and not name.startswith(circumstances):
            raise UserError(
                f"{path} is of another evaluation ({name.removeprefix('config.')} was {before!r},"
                f" now {after!r}): move it away, or give another --workdir."
            )


def finish(
    config: EvalConfig,
    pretrained: Pretrained,
    data: DataSummary,
    measured: Measured,
    workdir: PurePath,
) -> dict[str, Any]:
    """Prints the result line, writes `result.json` and returns its content.

    Args:
      config: config of the evaluation.
      pretrained: the encoders.
      data: summary of the data.
      measured: the metrics.
      workdir: folder of the evaluation.

    Raises:
      UserError: the file can't be written.
    """
    origin, run = pretrained.origin, pretrained.run
    on_disk = run and not storage.is_remote(origin.source)
    content = {
        "benchmark": config.benchmark,
        "protocol": config.protocol,
        "modality": config.modality,
        "network": config.network if run or config.network == "log_mel" else origin.network,
        "variant": run.model.variant if run else origin.family,
        "size": run.model.size if run else _sizes(pretrained),
        "train_fraction": config.train_fraction,
        "metric": measured.metric,
        "value": statistics.fmean(found.value for found in measured.scores.values()),
        "chance": measured.chance,
        "per_fold": [{"fold": n, **found.to_json()} for n, found in measured.scores.items()],
        "data": dataclasses.asdict(data),
        "checkpoint": {
            "source": os.path.abspath(origin.source) if on_disk else origin.source,
            "format": origin.format,
            "license": origin.license,
            **pretrained.identity,
        },
        "inputs": {m: input_fields(pretrained.views.modality(m)) for m in config.modalities},
        "config": dataclasses.asdict(config),
        "pretraining": dataclasses.asdict(run) if run else None,
        "versions": versions(),
    }
    print_on_main(f"result    {line(content)}")  # before the file, as the disk may be full
    write_once(workdir / FILE, content)
    print_on_main(f"written   {workdir / FILE}")
    return content


def _sizes(pretrained: Pretrained) -> str:
    """Width, depth and heads of the encoders, as in `model.size`."""
    encoders = pretrained.network.encoders.values()
    return " + ".join(dict.fromkeys(encoder.transformer.size for encoder in encoders))


def line(content: dict[str, Any]) -> str:
    """Returns the result line for the content of a result file."""
    folds = [fold["value"] for fold in content["per_fold"]]
    spread = f" (folds {', '.join(f'{v:.2f}' for v in folds)})" if len(folds) > 1 else ""
    percent = 100 * content["train_fraction"]
    fewer = f", {percent:g} % of the labels" if percent < 100 else ""
    more = "".join(f"; {text}" for text in also(content["per_fold"], digits=2))
    if content.get("chance") is not None:  # files of older versions lack it
        more += f"; chance {content['chance']:.2f}"
    names = ["benchmark", "protocol", "modality", "network"]
    if not content["pretraining"]:
        names.insert(3, "variant")
    return (
        f"{', '.join(dict.fromkeys(filter(None, (content[name] for name in names))))}{fewer}:"
        f" {content['metric']} {content['value']:.2f} %{spread}{more}"
    )
