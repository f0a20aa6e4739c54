"""Gathers result files into the paper's tables.

    python -m xkd_jax.report RESULTS [RESULTS ...]

RESULTS are `result.json` files of evaluations, or folders that hold such files at any depth. Prints
tables in Markdown, the published numbers beside ours. The published ones are of base-size networks
(Sarkar & Etemad, AAAI 2024); what they were pretrained on follows in brackets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xkd_jax.errors import UserError
from xkd_jax.evaluate.result import FILE

# {(benchmark, modality): {protocol: {pretraining, variant: value}}}
_PUBLISHED = {
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
# and without refinement: {(benchmark, modality): {losses: value}}
_ABLATED = {
    ("ucf101", "video"): {
        "video reconstruction": 76.1, "reconstruction": 76.3, "+ distillation": 76.3,
        "+ alignment": 77.8, "all, no refinement": 79.3,
    },
    ("hmdb51", "video"): {
        "video reconstruction": 51.1, "reconstruction": 51.2, "+ distillation": 51.2,
        "+ alignment": 51.4, "all, no refinement": 55.6,
    },
    ("kinetics_sound", "video"): {
        "video reconstruction": 56.8, "reconstruction": 56.9, "+ alignment": 56.8,
    },
    ("k400", "video"): {
        "video reconstruction": 30.7, "reconstruction": 32.2, "+ distillation": 32.2,
        "+ alignment": 33.7,
    },
    ("esc50", "audio"): {"all, no refinement": 84.3},
}  # fmt: skip
# What the paper calls linear is an SVM or a linear layer, depending on the benchmark.
_TABLES = {
    "linear": "Linear evaluation",
    "finetune": "Finetuning",
    "attentive": "Attentive probe",
    "knn": "Nearest neighbours",
    "retrieval": "Retrieval across modalities",
    "low_shot": "Few labels",
}


def load(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Reads result files.

    Args:
      paths: of the files, or of folders that hold them.

    Raises:
      UserError: a path has no result file, or a file is none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(path.rglob(FILE)) if path.is_dir() else [path]
        if not found or not found[0].is_file():
            raise UserError(f"{path} has no {FILE}: give the workdirs of finished evaluations.")
        files += found
    return [_read(file) for file in files]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        for key in ("benchmark", "protocol", "modality", "network", "variant", "share", "metric"):
            content[key]
        float(content["value"]), content["per_fold"], content["checkpoint"]["step"]
        _losses(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no result of an evaluation ({error}): leave it out.") from None
    return content


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Returns the tables in Markdown; each result is one row of one of them."""
    rows: dict[str, list[str]] = {}
    for result in sorted(results, key=_order):
        rows.setdefault(_table(result), []).append(_row(result))
    header = (
        "| benchmark | modality | losses | network | step | ours | folds | published |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    return "\n\n".join(
        "\n".join([f"## {title}", "", header, *rows[table]])
        for table, title in _TABLES.items()
        if table in rows
    )


def _table(result: dict[str, Any]) -> str:
    if result["share"] < 1:
        return "low_shot"
    return "linear" if result["protocol"] == "svm" else result["protocol"]


def _order(result: dict[str, Any]) -> tuple[Any, ...]:
    names = ("benchmark", "modality", "share", "variant")
    return (*(result[name] for name in names), _losses(result), result["network"])


def _losses(result: dict[str, Any]) -> str:
    """The losses that the network was pretrained with; an untrained one has none."""
    if result["network"] in ("untrained", "log_mel"):
        return ""
    loss = result["pretraining"]["loss"]
    used = {name for name, weight in loss["weights"].items() if weight}
    distilled, aligned = ({n for n in used if n.startswith(k)} for k in ("distill", "align"))
    if distilled and aligned:
        return "all, no refinement" if loss["refinement"] == "none" else "all"
    if distilled or aligned:
        return "+ distillation" if distilled else "+ alignment"
    return "reconstruction" if "reconstruct_audio" in used else "video reconstruction"


def _row(result: dict[str, Any]) -> str:
    folds = [fold["value"] for fold in result["per_fold"]]
    share = f" ({100 * result['share']:g} %)" if result["share"] < 1 else ""
    shown = (
        result["benchmark"] + share,
        result["modality"],
        _losses(result),
        f"{result['variant']} {result['network']}",
        str(result["checkpoint"]["step"]),
        f"{result['value']:.1f} {result['metric']}{_beside(result['per_fold'])}",
        ", ".join(f"{value:.1f}" for value in folds) if len(folds) > 1 else "",
        _published(result),
    )
    return f"| {' | '.join(shown)} |"


def _beside(per_fold: list[dict[str, Any]]) -> str:
    """The mean over folds with the cost that was chosen without the test records."""
    if not all("top1_held_out_cost" in fold for fold in per_fold):
        return ""
    values = [fold["top1_held_out_cost"] for fold in per_fold]
    return f" ({sum(values) / len(values):.1f} with the held-out cost)"


def _published(result: dict[str, Any]) -> str:
    measured, losses = (result["benchmark"], result["modality"]), _losses(result)
    known = _PUBLISHED.get(measured, {}).get(_table(result), {}) if losses == "all" else {}
    if _table(result) == "linear" and losses in (ablated := _ABLATED.get(measured, {})):
        known = {"K400 xkd": ablated[losses]}
    return ", ".join(
        f"{value} ({source.split()[0]})"
        for source, value in known.items()
        if source.endswith(f" {result['variant']}")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m xkd_jax.report", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("results", nargs="+", help="result files, or folders that hold them")
    try:
        print(tables(load(parser.parse_args(argv).results)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
