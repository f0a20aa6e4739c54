"""Recordings of spoken digits: linear SVM on audio, one fold for each held-out speaker.

    python -m data_pipelines.build --dataset=spoken_recordings --source=RECORDINGS --output=SHARDS \
        --hop=250 --mels=40
    python main.py --config=configs/eval/spoken_recordings.py --config.checkpoint=runs/demo \
        --config.data.dir=SHARDS --workdir=runs/recordings

RECORDINGS has files `{digit}_{speaker}_{index}.wav`, such as those of six speakers in the Free
Spoken Digit Dataset (for another number give as many folds, --config.data.folds='(1, 2, 3)'); hop
and mels are those of configs/demo.py. `--config.network=untrained` and `--config.network=log_mel`
are baselines without pretraining and without a network.
"""

import ml_collections

from xkd_jax.config import evaluation as eval_config


def get_config() -> ml_collections.ConfigDict:
    """Recordings are shorter than a clip, so the four training clips differ only in volume."""
    config = eval_config.default()
    config.benchmark = "spoken_recordings"
    config.modality = "audio"
    config.data.train_split = "all"
    config.data.folds = (1, 2, 3, 4, 5, 6)
    config.clips.update(train=4, test=1, crops=1)
    config.svm.costs = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    return config
