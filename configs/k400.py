"""Pretraining on Kinetics-400, the paper's main run (Sarkar & Etemad, AAAI 2024, section 4).

    python main.py --config=configs/k400.py --config.data.videos=VIDEOS --workdir=RUN
    python main.py --config=configs/k400.py --config.data.dir=SHARDS --workdir=RUN
    python main.py --config=configs/k400.py:mas ...    # one set of student blocks
    python main.py --config=configs/k400.py:mats ...   # and one set of teacher blocks

`:reconstruction`, `:reconstruction_video`, `:distillation` and `:alignment` are the paper's
ablations of the losses. `:reconstruction_video` trains on silent videos too, and
`:reconstruction_audio` on sound alone.

Hardware: the authors used 8 V100; 206.3 M trained parameters, 396.4 M with the teachers.
Expected, linear | finetuned, top-1 %:
  xkd   UCF101 83.8|94.1  HMDB51 57.4|69.0  K400 51.4|77.6  ESC-50 89.4|93.6  FSD50K 45.8|54.1 mAP
  mas   81.7|93.4  55.1|65.9  50.1|75.9  87.3|92.7  43.0|52.3
  mats  80.1|93.1  53.1|65.7  48.8|75.7  88.7|92.9  43.4|53.8
"""

import ml_collections

from configs import ablations
from xkd_jax.config import pretraining as xkd_config


def get_config(variant: str = "xkd") -> ml_collections.ConfigDict:
    """The paper's settings; `variant` is xkd, mas, mats or an ablation of the losses."""
    config = xkd_config.default()
    config.batch_size = 256
    config.epochs = 800.0
    config.data.records = 240_000
    config.model.size = "base"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_epochs = 30.0
    config.optimizer.weight_decay = 0.3
    config.optimizer.ema_start = 0.997
    return select(config, variant)


def select(config: ml_collections.ConfigDict, variant: str) -> ml_collections.ConfigDict:
    """Applies a variant or an ablation, as in the authors' released configs."""
    if variant not in ("xkd", "mas", "mats"):
        return ablations.select(config, variant, also=("xkd", "mas", "mats"))
    config.model.variant = variant
    if variant != "xkd":
        config.video.local_views = 3
    if variant == "mas":
        config.loss.video_teacher_temperature.update(start=0.09, end=0.11)
        config.loss.audio_teacher_temperature.update(start=0.04, end=0.06)
    return config
