"""ESC-50, linear SVM on audio, five folds.

    python -m data_pipelines.build --dataset=esc50 --source=ESC-50 --output=SHARDS
    python main.py --config=configs/eval/esc50.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/esc50

100 training clips per file, with a gain drawn from 0.9 to 1.1; 3 test clips.
Expected of xkd, mas, mats pretrained on Kinetics-400: 89.4, 87.3, 88.7 % top-1; xkd pretrained on
AudioSet: 93.6.
"""

import ml_collections

from xkd_jax.config import evaluation as eval_config


def get_config() -> ml_collections.ConfigDict:
    """The published protocol."""
    config = eval_config.default()
    config.benchmark = "esc50"
    config.modality = "audio"
    config.data.train_split = "all"
    config.data.folds = (1, 2, 3, 4, 5)
    config.clips.update(train=100, test=3, crops=1)
    config.clips.audio.volume = 0.1
    config.svm.costs = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return config
