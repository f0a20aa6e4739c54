"""k nearest neighbors: no training, one clip per record without augmentation.

    python main.py --config=configs/eval/knn.py:video --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/knn

`:audio` and `:both` are the other modalities. SHARDS are of any data set with one class per record.
By default the neighbors are in the split `train` and the queries in `test`; other data sets need

  Kinetics-400, Kinetics-Sound               --config.data.test_split=validation
  UCF101, HMDB51                             --config.data.train_split=all
                                             --config.data.folds='(1, 2, 3)'
  ESC-50 and recordings of spoken digits     the same, with as many folds as they have

(UCF101 and HMDB51 have `:video` only, ESC-50 and the recordings `:audio`.) 20 neighbors by cosine
similarity, weighted by exp(cosine / 0.07), as usual for self-supervised networks. No published
numbers.
"""

import ml_collections

from configs.eval import kinetics_sound


def get_config(modality: str = "video") -> ml_collections.ConfigDict:
    """One plain clip, one crop."""
    config = kinetics_sound.get_config(modality)
    config.benchmark = "knn"
    config.protocol = "knn"
    config.data.test_split = "test"
    config.clips.update(train=1, test=1, crops=1)
    return config
