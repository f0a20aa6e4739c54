"""HMDB51, linear SVM on video, three folds.

    python -m data_pipelines.build --dataset=hmdb51 --source=HMDB51 --output=SHARDS \
        --short_side=256
    python main.py --config=configs/eval/hmdb51.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/hmdb51

Protocol and reason for --short_side=256 are those of UCF101.
Expected of xkd, mas, mats pretrained on Kinetics-400: 57.4, 55.1, 53.1 % top-1; xkd pretrained on
AudioSet: 62.2.
"""

import ml_collections

from configs.eval import ucf101


def get_config() -> ml_collections.ConfigDict:
    """The published protocol."""
    config = ucf101.get_config()
    config.benchmark = "hmdb51"
    return config
