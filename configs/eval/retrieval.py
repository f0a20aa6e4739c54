"""Cross-modal retrieval: the video of a record from its audio, and its audio from its video.

    python main.py --config=configs/eval/retrieval.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/retrieval

Recall at 1, 5 and 10 among all records of the split `test` (for Kinetics give
--config.data.test_split=validation, for AudioSet --config.data.test_split=eval), by cosine
similarity of the projection heads' outputs, the space of cross-modal distillation. `:encoder`
compares the encoders' features.
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
