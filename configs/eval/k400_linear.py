"""Kinetics-400, a linear layer on the frozen video encoder.

    python -m data_pipelines.build --dataset=kinetics400 --source=KINETICS --output=SHARDS \
        --short_side=256 --modalities=video
    python main.py --config=configs/eval/k400_linear.py --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/k400_linear

AdamW, 100 epochs of one random clip per video; 3 test clips of 3 crops, probabilities averaged;
crops of 224 pixels, with interpolated positions of the 112-pixel network. The batch is 1024: in the
authors' config, each of 4 nodes has 256. Its gradients are accumulated over 4 parts, which needs
device memory for 256 clips; hosts need 8.6 GB for frames, --config.data.prefetch + 1 times.
`:attentive` pools tokens by one learned query, not by their mean. The same command resumes after an
interruption. Shards built without --modalities=video lack videos without an audio stream.
Expected of xkd, mas, mats pretrained on Kinetics-400: 51.4, 50.1, 48.8 % top-1; xkd pretrained on
AudioSet: 56.5. (No published number with `:attentive`.)
"""

import ml_collections

from data_pipelines.errors import UserError
from xkd_jax.config import evaluation as eval_config


def get_config(protocol: str = "linear") -> ml_collections.ConfigDict:
    """The published protocol, or that of an attentive probe."""
    if protocol not in ("linear", "attentive"):
        raise UserError(f"The config has no variant {protocol!r}: give linear or attentive.")
    config = eval_config.default()
    config.benchmark = "k400"
    config.protocol = protocol
    config.modality = "video"
    config.data.test_split = "validation"
    config.batch_size = 1024  # 4 nodes of 256
    config.fit.accumulation_steps = 4
    config.clips.update(train=1, test=3, crops=3, size=224)
    config.clips.video.area = (0.08, 1.0)
    config.fit.update(learning_rate=0.01, weight_decay=0.0, epochs=100.0, warmup_epochs=10.0)
    return config
