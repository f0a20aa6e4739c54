"""Measures the word information in the output of untrained audio teachers, by patch size.

    python -m benchmarks.untrained [--output=runs/untrained] [--seeds=0,1,2] [--speech_dir=DIR]
        [--patches=8x16,20x4,40x16,40x8,40x4,40x2]

In the first steps a teacher is a random network. The table has the fraction of the variance of its
head's output that is between the ten words (eta squared; 1: the output depends on the word alone),
mean and standard deviation over the seeds, for the networks of `configs/demo.py` with patches of
mel bands x columns of 15.6 ms. The clips are the first 2,000 of the training split.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.arguments import whole_numbers
from benchmarks.claim_tables import spread
from configs import demo
from data_pipelines import spoken_digits, terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.errors import UserError
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.augment import augment
from xkd_jax.config import pretraining as config_lib
from xkd_jax.config.pretraining import Config
from xkd_jax.method.random_streams import INITIALIZE, stream_key
from xkd_jax.method.train_state import construct, module_of, parameters
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import Tree

_CLIPS = 2000


def fraction_between_classes(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Returns eta squared: the variance of the class means over all variance.

    Args:
      outputs: float [samples, width].
      labels: int [samples].
    """
    centered = outputs.astype(np.float64) - outputs.mean(0, dtype=np.float64)
    groups = [centered[labels == label] for label in np.unique(labels)]
    between = sum(len(group) * np.square(group.mean(0)).sum() for group in groups)
    return float(between / np.square(centered).sum())


def word_fraction(config: Config, clips: Any, labels: np.ndarray) -> float:
    """Returns the fraction of the untrained audio teacher's output variance between the words.

    Args:
      config: of the run.
      clips: batches of evaluation views of audio.
      labels: int64 [clips].
    """

    @jax.jit
    def start() -> Tree:
        key = stream_key(config.seed, INITIALIZE)
        student = parameters(construct(Student, config.architecture, key))
        return teacher_counterpart(student, config.architecture)

    @jax.jit
    def outputs_of(tree: Tree, views: Any) -> jax.Array:
        teacher = module_of(Teacher, tree, config.architecture)
        view = augment(config, {"audio": views})["audio"]["global"]
        return teacher.heads["audio"](pool(teacher.encoders("audio", view)))

    tree = start()
    return fraction_between_classes(
        np.concatenate([outputs_of(tree, views) for views in clips]), labels
    )


def read_clips(config: Config, directory: str) -> tuple[list[Any], np.ndarray]:
    """Returns batches of evaluation views of the first clips' audio, and labels, int64 [n]."""
    dataset = open_dataset(config, directory, "train")
    batches = pipeline.eval_batches(
        config, dataset, modalities=("audio",), records=np.arange(_CLIPS)
    )
    clips, labels = [], []
    for batch in batches:
        valid = batch["valid"]
        clips.append(jax.tree.map(lambda rows, valid=valid: rows[valid], batch["audio"]))
        labels.append(batch["label"][valid])
    return clips, np.concatenate(labels)


def _configured(patch: tuple[int, int], seed: int, speech_dir: str) -> Config:
    raw = demo.get_config()
    raw.audio.patch, raw.seed, raw.data.speech_dir = patch, seed, speech_dir
    return config_lib.resolve(raw)


def _patches(text: str) -> list[tuple[int, int]]:
    matches = [re.fullmatch(r"(\d+)x(\d+)", patch) for patch in text.split(",")]
    found = [(int(match[1]), int(match[2])) for match in matches if match]
    if len(found) < len(matches):
        raise argparse.ArgumentTypeError(f"{text!r}: give bands x columns, as in 40x4,40x8.")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command_parser("benchmarks.untrained", __doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/untrained"))
    parser.add_argument("--patches", type=_patches, default="8x16,20x4,40x16,40x8,40x4,40x2")
    parser.add_argument("--seeds", type=whole_numbers, default="0,1,2")
    parser.add_argument(
        "--speech_dir", default="", help="folder of recordings in place of synthetic voices"
    )
    args = parser.parse_args(argv)
    try:
        configs = {
            patch: [_configured(patch, seed, args.speech_dir) for seed in args.seeds]
            for patch in args.patches
        }
        (first, *_), *_ = configs.values()
        spoken_digits.build(first, str(args.output))
        clips, labels = read_clips(first, str(args.output))
    except UserError as error:
        terminal.print_error(f"error: {error}")
        sys.exit(error.status)
    terminal.print_text("| audio patch | fraction |\n|---|---|")
    for (bands, columns), of_seeds in configs.items():
        fractions = [word_fraction(config, clips, labels) for config in of_seeds]
        terminal.print_text(f"| {bands} x {columns} | {spread(fractions, 2)} |")


if __name__ == "__main__":
    main()
