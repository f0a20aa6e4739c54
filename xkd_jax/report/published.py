"""The paper's numbers (Sarkar & Etemad, AAAI 2024), and which results they may stand beside.

They are of students of base size, evaluated as the files in `configs/eval/` say.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import ml_collections

from configs import ablations
from configs.eval import (
    esc50,
    finetune,
    fsd50k_linear,
    hmdb51,
    k400_linear,
    kinetics_sound,
    knn,
    low_shot,
    retrieval,
    spoken_digits,
    spoken_recordings,
    ucf101,
)
from xkd_jax.config import evaluation as eval_config
from xkd_jax.config import pretraining as pretraining_config
from xkd_jax.config.evaluation import CIRCUMSTANCES, TRAINED
from xkd_jax.config.pretraining import LossConfig
from xkd_jax.training import run_record

# {(benchmark, modality): {evaluation: {pretraining, variant: value}}}
_FULL = {
    ("ucf101", "video"): {
        "linear": {"K400 xkd": 83.8, "K400 mas": 81.7, "K400 mats": 80.1, "AudioSet xkd": 88.4},
        "finetune": {"K400 xkd": 94.1, "K400 mas": 93.4, "K400 mats": 93.1, "AudioSet xkd": 95.8},
    },
    ("hmdb51", "video"): {
        "linear": {"K400 xkd": 57.4, "K400 mas": 55.1, "K400 mats": 53.1, "AudioSet xkd": 62.2},
        "finetune": {"K400 xkd": 69.0, "K400 mas": 65.9, "K400 mats": 65.7, "AudioSet xkd": 75.7},
    },
    ("k400", "video"): {
        "linear": {"K400 xkd": 51.4, "K400 mas": 50.1, "K400 mats": 48.8, "AudioSet xkd": 56.5},
        "finetune": {"K400 xkd": 77.6, "K400 mas": 75.9, "K400 mats": 75.7, "AudioSet xkd": 80.1},
    },
    ("esc50", "audio"): {
        "linear": {"K400 xkd": 89.4, "K400 mas": 87.3, "K400 mats": 88.7, "AudioSet xkd": 93.6},
        "finetune": {"K400 xkd": 93.6, "K400 mas": 92.7, "K400 mats": 92.9, "AudioSet xkd": 96.5},
    },
    ("fsd50k", "audio"): {
        "linear": {"K400 xkd": 45.8, "K400 mas": 43.0, "K400 mats": 43.4, "AudioSet xkd": 51.5},
        "finetune": {"K400 xkd": 54.1, "K400 mas": 52.3, "K400 mats": 53.8, "AudioSet xkd": 58.5},
    },
    ("kinetics_sound", "audio"): {
        "linear": {"K400 xkd": 64.6, "K400 mas": 61.7, "K400 mats": 61.8}
    },
    ("kinetics_sound", "video"): {
        "linear": {"K400 xkd": 70.7, "K400 mas": 68.3, "K400 mats": 67.7}
    },
    ("kinetics_sound", "both"): {
        "linear": {"K400 xkd": 81.2, "K400 mas": 78.8, "K400 mats": 78.3}
    },
}  # fmt: skip
# Linear evaluations of xkd pretrained on Kinetics-400 without some of the losses (paper, Table 3),
# and without refinement: {(benchmark, modality): {losses: value}}. The networks that these were
# compared with are others than those above.
_LOSSES = {
    ("ucf101", "video"): {
        "video reconstruction": 76.1, "reconstruction": 76.3, "+ distillation": 76.3,
        "+ alignment": 77.8, "all": 84.7,
    },
    ("hmdb51", "video"): {
        "video reconstruction": 51.1, "reconstruction": 51.2, "+ distillation": 51.2,
        "+ alignment": 51.4, "all": 59.3,
    },
    ("kinetics_sound", "video"): {
        "video reconstruction": 56.8, "reconstruction": 56.9, "+ alignment": 56.8, "all": 70.7,
    },
    ("k400", "video"): {
        "video reconstruction": 30.7, "reconstruction": 32.2, "+ distillation": 32.2,
        "+ alignment": 33.7, "all": 46.4,
    },
}  # fmt: skip
_REFINEMENT = {
    ("ucf101", "video"): {"all, no refinement": 79.3, "all": 82.6},
    ("hmdb51", "video"): {"all, no refinement": 55.6, "all": 58.5},
    ("esc50", "audio"): {"all, no refinement": 84.3, "all": 88.0},
}
# {variant of a pretraining config: what the tables call its losses}
_NAMES = {
    "reconstruction_video": "video reconstruction",
    "reconstruction": "reconstruction",
    "distillation": "+ distillation",
    "alignment": "+ alignment",
    "no_refinement": "all, no refinement",
}
# {(benchmark, evaluation): the config file, by the result's modality and output}
_STANDARD: dict[tuple[str, str], Callable[[str, str], ml_collections.ConfigDict]] = {
    ("ucf101", "linear"): lambda _, __: ucf101.get_config(),
    ("hmdb51", "linear"): lambda _, __: hmdb51.get_config(),
    ("esc50", "linear"): lambda _, __: esc50.get_config(),
    ("fsd50k", "linear"): lambda _, __: fsd50k_linear.get_config(),
    ("k400", "linear"): lambda _, __: k400_linear.get_config(),
    ("k400", "attentive"): lambda _, __: k400_linear.get_config("attentive"),
    ("k400", "low_shot"): lambda _, __: low_shot.get_config(),
    ("kinetics_sound", "linear"): lambda modality, _: kinetics_sound.get_config(modality),
    ("knn", "knn"): lambda modality, _: knn.get_config(modality),
    ("retrieval", "retrieval"): lambda _, output: retrieval.get_config(output),
    ("spoken_digits", "linear"): lambda modality, _: spoken_digits.get_config(modality),
    ("spoken_recordings", "linear"): lambda _, __: spoken_recordings.get_config(),
    ("ucf101", "finetune"): lambda _, __: finetune.get_config("ucf101"),
    ("hmdb51", "finetune"): lambda _, __: finetune.get_config("hmdb51"),
    ("k400", "finetune"): lambda _, __: finetune.get_config("k400"),
    ("esc50", "finetune"): lambda _, __: finetune.get_config("esc50"),
    ("fsd50k", "finetune"): lambda _, __: finetune.get_config("fsd50k"),
}
_Parts = tuple[tuple[str, ...], str | None, str | None]
_IGNORED = (*CIRCUMSTANCES, "seed", "network", "share")  # the last two are in the tables


def losses(loss: LossConfig) -> str:
    """What the tables call the losses of a pretraining.

    Returns:
      `all`, the name of the paper's ablation that has the same losses, refinement and view of the
      teachers, or else what the losses are.
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
    """What has a name in the paper."""
    found = {_parts(LossConfig()): "all"}
    for variant, name in _NAMES.items():
        raw = ablations.select(pretraining_config.default(), variant)
        found[_parts(pretraining_config.resolve(raw).loss)] = name
    return found


def _parts(loss: LossConfig) -> _Parts:
    """The losses that count, and what they ask of the teachers, where there are any."""
    used = tuple(name for name, weight in dataclasses.asdict(loss.weights).items() if weight)
    if not any(name.startswith("distill") or name == "align_teachers" for name in used):
        return used, None, None
    return used, loss.refinement, loss.teacher_view


def numbers(
    benchmark: str, modality: str, evaluation: str, variant: str, pretrained_with: str
) -> str:
    """The published numbers of an evaluation, with what was pretrained on in brackets.

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
    measured = (benchmark, modality)
    if pretrained_with == "all":
        known = _FULL.get(measured, {}).get(evaluation, {})
        return ", ".join(
            f"{value} ({source.split()[0]})"
            for source, value in known.items()
            if source.endswith(f" {variant}")
        )
    if evaluation == "linear" and variant == "xkd":
        for ablation, whole in ((_LOSSES, "all losses"), (_REFINEMENT, "refinement")):
            known = ablation.get(measured, {})
            if pretrained_with in known:
                return f"{known[pretrained_with]} (K400; {known['all']} with {whole})"
    return ""


def differences(config: dict[str, Any], evaluation: str) -> list[str]:
    """What an evaluation did otherwise than the file in `configs/eval/` that it belongs to.

    Args:
      config: the evaluation's, as in its result file.
      evaluation: see `numbers`.

    Returns:
      `KEY is VALUE` of each such key; nothing where no file is for the benchmark.
    """
    make = _STANDARD.get((str(config["benchmark"]), evaluation))
    if make is None:
        return []
    standard = eval_config.resolve(make(str(config["modality"]), str(config["output"])))
    expected = json.loads(json.dumps(dataclasses.asdict(standard)))
    ignored = _IGNORED + _idle(str(config["protocol"]))
    return [
        f"{key} is {'not given' if given is None else given}"
        for key, _, given in run_record.differences("", expected, config)
        if not key.startswith(ignored)
    ]


def _idle(protocol: str) -> tuple[str, ...]:
    """Keys that play no part in a protocol."""
    sections = {"svm": ("svm", "data.held_out"), "knn": ("knn",)}
    idle = [key for other, keys in sections.items() if other != protocol for key in keys]
    return tuple(idle) if protocol in TRAINED else ("batch_size", "fit", *idle)
