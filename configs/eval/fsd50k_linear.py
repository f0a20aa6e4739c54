"""FSD50K, a linear layer on the frozen audio encoder; several labels per record, mAP.

    python -m data_pipelines.build --dataset=fsd50k --source=FSD50K --output=SHARDS
    python main.py --config=configs/eval/fsd50k_linear.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/fsd50k_linear

AdamW, a constant learning rate, 50 epochs of 10 random clips per record; 8 test clips,
probabilities averaged.
Expected of xkd, mas, mats pretrained on Kinetics-400: 45.8, 43.0, 43.4 mAP; xkd pretrained on
AudioSet: 51.5.
"""

import ml_collections

from xkd_jax.config import evaluation as eval_config


def get_config() -> ml_collections.ConfigDict:
    """The published protocol."""
    config = eval_config.default()
    config.benchmark = "fsd50k"
    config.protocol = "linear"
    config.modality = "audio"
    config.data.test_split = "eval"
    config.batch_size = 256
    config.clips.update(train=1, test=8, crops=1)
    config.fit.update(learning_rate=1e-3, schedule="constant", weight_decay=1e-5, dropout=0.3)
    config.fit.epochs = 500.0  # of one clip: 50 of ten
    return config
