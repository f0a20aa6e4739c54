"""UCF101, linear SVM on video, three folds.

    python -m data_pipelines.build --dataset=ucf101 --source=UCF101 --output=SHARDS \
        --short_side=256
    python main.py --config=configs/eval/ucf101.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/ucf101

25 augmented training clips per video; 3 test clips of 3 crops, decision values averaged. The
smallest training crops have 8 % of the area: from shards with a short side of 128, they have 9 % (a
source of 144 pixels) to 36 % (256) less gradient than the authors' crops of the whole frame.
Expected of xkd, mas, mats pretrained on Kinetics-400: 83.8, 81.7, 80.1 % top-1; xkd pretrained on
AudioSet: 88.4.
"""

import ml_collections

from xkd_jax.config import evaluation as eval_config


def get_config() -> ml_collections.ConfigDict:
    """The published protocol."""
    config = eval_config.default()
    config.benchmark = "ucf101"
    config.modality = "video"
    config.data.train_split = "all"
    config.data.folds = (1, 2, 3)
    config.clips.update(train=25, test=3, crops=3)
    config.clips.video.update(area=(0.08, 1.0), grayscale=0.2)
    config.svm.costs = (1e-3, 1e-2, 1e-1, 1.0)
    return config
