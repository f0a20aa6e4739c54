"""Kinetics-400 with few labels: linear SVM on 1, 5 or 10 % of each class's training videos.

    python main.py --config=configs/eval/low_shot.py:1 --config.checkpoint=RUN \
        --config.data.dir=SHARDS --config.features=FEATURES --workdir=runs/low_shot_1

The variant is the percentage; SHARDS are those of k400_linear.py. Features of all training
videos are extracted once, into FEATURES, and shared by the three runs. No published numbers.
"""

import ml_collections

from data_pipelines.errors import UserError
from xkd_jax.config import evaluation as eval_config


def get_config(percent: str = "10") -> ml_collections.ConfigDict:
    """One random clip a training video; 3 test clips of 3 crops."""
    if percent not in ("1", "5", "10"):
        raise UserError(f"The config has no variant {percent!r}: give 1, 5 or 10.")
    config = eval_config.default()
    config.benchmark = "k400"
    config.train_fraction = int(percent) / 100
    config.data.test_split = "validation"
    config.clips.update(train=1, test=3, crops=3)
    config.clips.video.update(area=(0.08, 1.0), grayscale=0.2)
    return config
