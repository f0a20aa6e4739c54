"""FSD50K, a linear layer on the frozen audio encoder; several labels a sound, mAP.

    python -m data_pipelines.build --dataset=fsd50k --source=FSD50K --output=SHARDS
    python main.py --config=configs/eval/fsd50k_linear.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/fsd50k_linear

AdamW, 100 epochs of one random clip a sound; 8 test clips, probabilities averaged.
Expected of xkd, mas, mats pretrained on Kinetics-400: 45.8, 43.0, 43.4 mAP; xkd pretrained on
AudioSet: 51.5.
"""

import ml_collections

from configs.eval import k400_linear


def get_config() -> ml_collections.ConfigDict:
    """The published protocol."""
    config = k400_linear.get_config()
    config.benchmark = "fsd50k"
    config.modality = "audio"
    config.data.test_split = "eval"
    config.clips.update(train=1, test=8, crops=1, size=0)
    return config
