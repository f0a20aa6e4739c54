"""Retrieval across modalities: a record's video given its sound, and its sound given its video.

    python main.py --config=configs/eval/retrieval.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/retrieval

Recall at 1, 5 and 10 among all records of the split `test` (of Kinetics give
--config.data.test_split=validation, of AudioSet --config.data.test_split=eval), by the cosine of
the projection heads' outputs: the space in which the teachers of one modality teach the students of
the other, and so the only one in which both have a meaning. `:encoder` compares the encoders'
features.
No published numbers.
"""

import ml_collections

from configs.eval import knn
from data_pipelines.errors import UserError


def get_config(output: str = "head") -> ml_collections.ConfigDict:
    """One plain clip, one crop."""
    if output not in ("head", "encoder"):
        raise UserError(f"The config has no variant {output!r}: give head or encoder.")
    config = knn.get_config("both")
    config.benchmark = "retrieval"
    config.protocol = "retrieval"
    config.output = output
    return config
