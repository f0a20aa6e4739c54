"""Kinetics-Sound, linear SVM on audio, video, or both.

    python -m data_pipelines.build --dataset=kinetics_sound --source=KINETICS --output=SHARDS
    python main.py --config=configs/eval/kinetics_sound.py:both --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/kinetics_sound_both

For video, build with --short_side=256, which is closer to the authors' crops
(configs/eval/ucf101.py has the numbers). `:video` and `:audio` are the single modalities. 20
training clips and 2 test clips per video; `both` concatenates the features of the modalities, each
scaled to length 1.
Expected of xkd, audio / video / both: 64.6 / 70.7 / 81.2 % top-1 (mas 61.7 / 68.3 / 78.8, mats
61.8 / 67.7 / 78.3).
"""

import ml_collections

from data_pipelines.errors import UserError
from xkd_jax.config import evaluation as eval_config


def get_config(modality: str = "both") -> ml_collections.ConfigDict:
    """The published protocol for one modality or both."""
    if modality not in ("video", "audio", "both"):
        raise UserError(f"The config has no variant {modality!r}: give video, audio or both.")
    config = eval_config.default()
    config.benchmark = "kinetics_sound"
    config.modality = modality
    config.data.test_split = "validation"
    config.clips.update(train=20, test=2, crops=1)
    config.clips.video.update(area=(0.08, 1.0), grayscale=0.2)
    config.svm.costs = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return config
