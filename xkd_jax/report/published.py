"""The paper's numbers (Sarkar & Etemad, AAAI 2024), and the results that are comparable.

They are of students of base size, evaluated with the files in `configs/eval/`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from xkd_jax import command_line
from xkd_jax.config import config_file
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config.ablations import ABLATIONS
from xkd_jax.config.benchmarks import BENCHMARKS, BenchmarkRecord
from xkd_jax.config.evaluation import CIRCUMSTANCES, TRAINED, EvalConfig
from xkd_jax.config.loss_settings import LossConfig
from xkd_jax.training.checkpoints import run_record

_CONFIGS = config_file.FOLDER / "eval"
_Parts = tuple[tuple[str, ...], str | None, str | None]
_IGNORED = (*CIRCUMSTANCES, "seed", "network", "train_fraction")  # the last two are in the tables


def losses(loss: LossConfig) -> str:
    """Returns the text for the losses of a pretraining.

    It is `all`, the title of the paper's ablation with the same losses, refinement and teacher
    view, or a list of the losses.
    """
    parts = used, refinement, teacher_view = _parts(loss)
    if parts in _named():
        return _named()[parts]
    off = [name for name in dataclasses.asdict(loss.weights) if name not in used]
    if not off:
        texts = ["all"]
    elif len(off) <= len(used):
        texts = [f"all but {', '.join(off)}"]
    else:
        texts = [f"only {', '.join(used)}"]
    standard = LossConfig()
    if refinement not in (None, standard.refinement):
        texts.append("no refinement" if refinement == "none" else f"{refinement} refinement")
    if teacher_view not in (None, standard.teacher_view):
        texts.append(f"{teacher_view} teacher view")
    return ", ".join(texts)


@functools.cache
def _named() -> dict[_Parts, str]:
    """Returns {losses, refinement, teacher view: title in the paper}."""
    known = {_parts(LossConfig()): "all"}
    return known | {_parts(a.of(LossConfig())): a.title for a in ABLATIONS.values()}


def _parts(loss: LossConfig) -> _Parts:
    """Returns the losses with a nonzero weight, and the teachers' refinement and view if used."""
    used = tuple(name for name, weight in dataclasses.asdict(loss.weights).items() if weight)
    if not any(name.startswith("distill") or name == "align_teachers" for name in used):
        return used, None, None
    return used, loss.refinement, loss.teacher_view


def numbers(
    benchmark: str, modality: str, evaluation: str, variant: str, pretrained_with: str
) -> str:
    """Returns the published numbers of an evaluation, with the pretraining data in brackets.

    Args:
      benchmark: as in `configs/eval/`.
      modality: video, audio or both.
      evaluation: linear (an SVM or a linear layer, depending on the benchmark) or finetune; others
        have none.
      variant: of the model.
      pretrained_with: as `losses` calls it.

    Returns:
      An empty string where there are none.
    """
    record = BENCHMARKS.get(benchmark, BenchmarkRecord())
    if pretrained_with == "all":
        return ", ".join(
            f"{of[variant]} ({source})"
            for (known, measured, source), of in record.published.items()
            if (known, measured) == (evaluation, modality) and variant in of
        )
    if evaluation == "linear" and variant == "xkd":
        parts = ((record.ablations, "all losses"), (record.refinements, "refinement"))
        for ablation, whole in parts:
            known = ablation.get(modality, {})
            if pretrained_with in known:
                return f"{known[pretrained_with]} (K400; {known['all']} with {whole})"
    return ""


def differences(config: dict[str, Any], evaluation: str) -> list[str]:
    """Returns the differences of an evaluation from its file in `configs/eval/`.

    Args:
      config: config of the evaluation, as in its result file.
      evaluation: see `numbers`.

    Returns:
      `KEY is VALUE` of each key that differs; empty if the benchmark has no file.
    """
    record = BENCHMARKS.get(str(config["benchmark"]), BenchmarkRecord())
    if config["protocol"] == "svm" and evaluation == "linear" and "svm" in record.configs:
        evaluation = "svm"
    if evaluation not in record.configs:
        return []
    name = record.configs[evaluation].format(modality=config["modality"], output=config["output"])
    standard = standard_config(name)
    expected = json.loads(json.dumps(dataclasses.asdict(standard)))
    ignored = _IGNORED + _idle(str(config["protocol"]))
    return [
        f"{key} is {'not given' if given is None else given}"
        for key, _, given in run_record.differences("", expected, config)
        if not key.startswith(ignored)
    ]


@functools.cache
def standard_config(name: str) -> EvalConfig:
    """Returns the settings of a file in `configs/eval/`, given as NAME or NAME:VARIANT.

    Raises:
      UserError: the file has no such variant.
    """
    file, colon, variant = name.partition(":")
    return eval_config.resolve(command_line.read_config(f"{_CONFIGS / file}.py{colon}{variant}"))


def _idle(protocol: str) -> tuple[str, ...]:
    """Returns the prefixes of keys that a protocol does not use."""
    sections = {"svm": ("svm", "data.held_out"), "knn": ("knn",)}
    idle = [key for other, keys in sections.items() if other != protocol for key in keys]
    return tuple(idle) if protocol in TRAINED else ("batch_size", "fit", *idle)
