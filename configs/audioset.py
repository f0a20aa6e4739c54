"""Pretraining on AudioSet (2 M clips of 10 s), the paper's larger run.

    python -m data_pipelines.build --dataset=audioset --source=AUDIOSET --output=SHARDS
    python main.py --config=configs/audioset.py --config.data.dir=SHARDS --workdir=RUN

It trains on both training splits; for shards of one of them, give it as --config.data.split.
`:mas` and `:mats` are the modality-agnostic variants; ablations as in `configs/k400.py`. Settings
other than data and epochs are those of Kinetics-400: half the epochs, each eight times as long,
are four times the steps.

Expected of xkd, linear | finetuned, top-1 %:
  UCF101 88.4|95.8  HMDB51 62.2|75.7  K400 56.5|80.1  ESC-50 93.6|96.5  FSD50K 51.5|58.5 mAP
"""

import ml_collections

from configs import k400


def get_config(variant: str = "xkd") -> ml_collections.ConfigDict:
    """The paper's settings; `variant` is xkd, mas, mats or an ablation of the losses."""
    config = k400.get_config(variant)
    config.epochs = 400.0
    config.data.records = 2_000_000
    config.data.split = "balanced_train+unbalanced_train"
    return config
