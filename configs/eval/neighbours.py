"""k nearest neighbours on any labelled data set: no training, one plain clip a record.

    python main.py --config=configs/eval/neighbours.py:video --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/neighbours

`:audio` and `:both` are the other choices of modality. 20 neighbours by cosine, weighted by
exp(cosine / 0.07), as is usual for self-supervised networks; no published numbers.
"""

import ml_collections

from configs.eval import kinetics_sound


def get_config(modality: str = "video") -> ml_collections.ConfigDict:
    """One plain clip, one crop."""
    config = kinetics_sound.get_config(modality)
    config.benchmark = "neighbours"
    config.protocol = "knn"
    config.data.test_split = "test"
    config.clips.update(train=1, test=1, crops=1)
    return config
