"""Spoken digits: XKD on a laptop, with generated data.

    python main.py --config=configs/demo.py
    python main.py --config=configs/demo.py:reconstruction   # that loss only

Makes 6,000 one-second clips of a handwritten digit that bounces among clutter while a synthetic
voice says its name, trains on them without labels, and then fits linear probes on the frozen
encoders, with held-out writers and voices. It ends with report.html in the run's folder, a page
with pictures and sounds. `:reconstruction_video`, `:reconstruction`, `:distillation`, `:alignment`
and `:no_refinement` are the ablations of the paper's Table 3, `:reconstruction_audio` is trained on
sound alone, `:mas` and `:mats` are the modality-agnostic variants. `--config.data.speech_dir=DIR`
takes recordings named {digit}_{speaker}_{index}.wav in place of the synthetic voices.
"""

import ml_collections

from configs import ablations
from xkd_jax.config import pretraining as xkd_config


def get_config(variant: str = "xkd") -> ml_collections.ConfigDict:
    """A small XKD that learns in minutes on two cores."""
    config = xkd_config.default()
    config.batch_size = 64
    config.epochs = 0.0
    config.max_steps = 1200
    config.log_every = 25

    config.data.dataset = "spoken_digits"
    config.data.train_clips = config.data.records = 6000
    config.data.short_side = 32
    config.data.update(threads=2, workers=0)
    config.probe.enabled = True
    config.probe.knn_every = config.pictures_every = 100
    config.checkpoint.every_steps = 100
    config.report = True

    config.model.size = "96/2/4:48/1/4"
    config.model.compute_dtype = "float32"
    config.model.remat = "none"
    config.model.head.update(hidden=256, bottleneck=64, outputs=512)

    config.video.update(frames=8, size=32, patch=(4, 8, 8), mask_ratio=0.5)
    config.video.update(local_frames=4, local_size=32)
    # A token is 62 ms of the whole spectrum. The mean over such tokens hardly depends on the time
    # of the word, so that even an untrained teacher's output has information about the word.
    config.audio.update(mels=40, columns=64, hop=250, patch=(40, 4), mask_ratio=0.7)
    config.audio.update(local_columns=32)

    # digits are not symmetric, colors are random, and a crop must contain most of the digit
    for augment in ("global_augment", "local_augment"):
        config.video[augment].update(area=(0.8, 1.0), flip=0.0, grayscale=0.0, blur=0.0)
        config.video[augment].update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

    # The video teacher's output has little information about the word, and an audio student that
    # learns it loses the word: this direction has a small weight, and teachers change slowly. A
    # head's output has variance 1, so that all temperatures are equal.
    config.loss.student_temperature = 0.1
    config.loss.video_teacher_temperature.update(start=0.1, end=0.1)
    config.loss.audio_teacher_temperature.update(start=0.1, end=0.1)
    config.loss.weights.update(distill_audio_to_video=10.0, distill_video_to_audio=0.25)
    config.optimizer.update(learning_rate=1e-3, warmup_epochs=0.4, weight_decay=0.05)
    config.optimizer.update(ema_start=0.9998)

    if variant in ("xkd", "mas", "mats"):
        config.model.variant = variant
        return config
    return ablations.select(config, variant, also=("xkd", "mas", "mats"))
