"""The benchmarks: data set, config files and published numbers of each.

A new benchmark is one record here and one file in `configs/eval/` (and a catalog in
`data_pipelines/build/catalogs/` for a new data set). The file has protocol, modality, folds, clips
and classifier; the shards have classes and folds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# {variant of the model: value}
Numbers = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class BenchmarkRecord:
    """One benchmark. Published numbers: Sarkar & Etemad, AAAI 2024.

    Attributes:
      data_set: catalog that its shards are built from; empty: any data set.
      configs: {evaluation: its file in `configs/eval/`, as NAME or NAME:VARIANT}. `{modality}` and
        `{output}` in a variant are those of the result. Evaluations are `linear` (an SVM or a
        linear layer, depending on the benchmark; a benchmark with both has `svm` too), `finetune`,
        `attentive`, `low_shot`, `knn` and `retrieval`.
      published: {(evaluation, modality, pretraining data): {variant: value}}, of base size.
      ablations: {modality: {losses: value}} of linear evaluation, xkd pretrained on Kinetics-400
        with some of the losses (Table 3); `all` is the network that these are compared with; it is
        not the network of `published`.
      refinements: {modality: {losses: value}}, the same with and without refinement.
    """

    data_set: str = ""
    configs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    published: Mapping[tuple[str, str, str], Numbers] = dataclasses.field(default_factory=dict)
    ablations: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    refinements: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def _full(
    modality: str, linear: tuple[float, float, float, float],
    finetune: tuple[float, float, float, float],
) -> dict[tuple[str, str, str], Numbers]:  # fmt: skip
    """Numbers of xkd, mas, mats pretrained on Kinetics-400, and of xkd pretrained on AudioSet."""
    found: dict[tuple[str, str, str], Numbers] = {}
    for evaluation, (xkd, mas, mats, audioset) in (("linear", linear), ("finetune", finetune)):
        found[evaluation, modality, "K400"] = {"xkd": xkd, "mas": mas, "mats": mats}
        found[evaluation, modality, "AudioSet"] = {"xkd": audioset}
    return found


# {value of `benchmark` in a config: record}
BENCHMARKS: dict[str, BenchmarkRecord] = {
    "ucf101": BenchmarkRecord(
        data_set="ucf101",
        configs={"linear": "ucf101", "finetune": "finetune:ucf101"},
        published=_full("video", (83.8, 81.7, 80.1, 88.4), (94.1, 93.4, 93.1, 95.8)),
        ablations={
            "video": {
                "video reconstruction": 76.1, "reconstruction": 76.3, "+ distillation": 76.3,
                "+ alignment": 77.8, "all": 84.7,
            }
        },
        refinements={"video": {"all, no refinement": 79.3, "all": 82.6}},
    ),
    "hmdb51": BenchmarkRecord(
        data_set="hmdb51",
        configs={"linear": "hmdb51", "finetune": "finetune:hmdb51"},
        published=_full("video", (57.4, 55.1, 53.1, 62.2), (69.0, 65.9, 65.7, 75.7)),
        ablations={
            "video": {
                "video reconstruction": 51.1, "reconstruction": 51.2, "+ distillation": 51.2,
                "+ alignment": 51.4, "all": 59.3,
            }
        },
        refinements={"video": {"all, no refinement": 55.6, "all": 58.5}},
    ),
    "k400": BenchmarkRecord(
        data_set="kinetics400",
        configs={
            "linear": "k400_linear", "finetune": "finetune:k400",
            "attentive": "k400_linear:attentive", "low_shot": "low_shot",
        },
        published=_full("video", (51.4, 50.1, 48.8, 56.5), (77.6, 75.9, 75.7, 80.1)),
        ablations={
            "video": {
                "video reconstruction": 30.7, "reconstruction": 32.2, "+ distillation": 32.2,
                "+ alignment": 33.7, "all": 46.4,
            }
        },
    ),
    "esc50": BenchmarkRecord(
        data_set="esc50",
        configs={"linear": "esc50", "finetune": "finetune:esc50"},
        published=_full("audio", (89.4, 87.3, 88.7, 93.6), (93.6, 92.7, 92.9, 96.5)),
        refinements={"audio": {"all, no refinement": 84.3, "all": 88.0}},
    ),
    "fsd50k": BenchmarkRecord(
        data_set="fsd50k",
        configs={"linear": "fsd50k_linear", "finetune": "finetune:fsd50k"},
        published=_full("audio", (45.8, 43.0, 43.4, 51.5), (54.1, 52.3, 53.8, 58.5)),
    ),
    "kinetics_sound": BenchmarkRecord(
        data_set="kinetics_sound",
        configs={"linear": "kinetics_sound:{modality}"},
        published={
            ("linear", "audio", "K400"): {"xkd": 64.6, "mas": 61.7, "mats": 61.8},
            ("linear", "video", "K400"): {"xkd": 70.7, "mas": 68.3, "mats": 67.7},
            ("linear", "both", "K400"): {"xkd": 81.2, "mas": 78.8, "mats": 78.3},
        },
        ablations={
            "video": {
                "video reconstruction": 56.8, "reconstruction": 56.9, "+ alignment": 56.8,
                "all": 70.7,
            }
        },
    ),
    "spoken_digits": BenchmarkRecord(
        data_set="spoken_digits", configs={"linear": "spoken_digits:{modality}"}
    ),
    "spoken_recordings": BenchmarkRecord(
        data_set="spoken_recordings", configs={"linear": "spoken_recordings"}
    ),
    "own": BenchmarkRecord(
        configs={
            "svm": "own:svm_{modality}", "knn": "own:knn_{modality}",
            "linear": "own:linear_{modality}", "finetune": "own:finetune_{modality}",
        }
    ),
    "knn": BenchmarkRecord(configs={"knn": "knn:{modality}"}),
    "retrieval": BenchmarkRecord(configs={"retrieval": "retrieval:{output}"}),
}  # fmt: skip
