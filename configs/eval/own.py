"""A labeled folder of your own: SVM, nearest neighbors, linear layer, or finetuning.

    python -m data_pipelines.build --dataset=folder --source=VIDEOS --output=SHARDS --hold_out=0.2
    python main.py --config=configs/eval/own.py:knn --config.checkpoint=RUN \
        --config.data.dir=SHARDS --workdir=runs/own_knn

The folders of VIDEOS are the classes. The build holds out a fifth of each class's files as the
split `test`; a folder with train and test needs no --hold_out, and one with train and val needs
--config.data.test_split=validation here. Variants, from the fastest to the slowest:

  :knn       20 nearest neighbors of one plain clip per record; nothing is trained
  :svm       linear SVMs on 10 augmented clips per record
  :linear    a linear layer, 100 epochs of one random clip per record
  :finetune  the whole network, 50 epochs

Each is of video; `:knn_audio`, `:svm_audio`, `:linear_audio` and `:finetune_audio` are of audio,
`:knn_both` and `:svm_both` of both. Test clips are 3 per record, 1 for nearest neighbors, with one
central crop. Settings are this project's; no published numbers.
"""

import ml_collections

from data_pipelines.errors import UserError
from xkd_jax.config import evaluation as eval_config

_PROTOCOLS = ("svm", "knn", "linear", "finetune")
_VARIANTS = tuple(
    f"{protocol}{suffix}"
    for suffix, protocols in (("", _PROTOCOLS), ("_video", _PROTOCOLS), ("_audio", _PROTOCOLS),
                              ("_both", ("svm", "knn")))
    for protocol in protocols
)  # fmt: skip


def get_config(variant: str = "svm") -> ml_collections.ConfigDict:
    """The settings of a protocol, for video unless the variant names another modality."""
    if variant not in _VARIANTS:
        raise UserError(
            f"The config has no variant {variant!r}: give svm, knn, linear or finetune, alone or"
            " with _audio, or svm_both or knn_both."
        )
    protocol, _, modality = variant.partition("_")
    config = eval_config.default()
    config.benchmark = "own"
    config.protocol = protocol
    config.modality = modality or "video"
    config.batch_size = 32
    config.clips.update(train=1, test=3, crops=1)
    if protocol == "knn":
        config.clips.test = 1
    elif protocol == "svm":
        config.clips.train = 10
        config.clips.video.area = (0.08, 1.0)
        config.svm.costs = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    elif protocol == "linear":
        config.clips.video.area = (0.08, 1.0)
        config.fit.update(learning_rate=0.01, epochs=100.0, warmup_epochs=10.0)
    else:
        _finetune(config)
    return config


def _finetune(config: ml_collections.ConfigDict) -> None:
    config.clips.video.update(area=(0.2, 1.0), grayscale=0.0)
    config.clips.video.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    config.fit.update(learning_rate=2e-4, final_learning_rate=1e-6, epochs=50.0)
    config.fit.update(warmup_epochs=5.0, weight_decay=0.05, layer_decay=0.65, dropout=0.5)
    config.fit.label_smoothing = 0.1
    config.fit.augment.update(operations=4, magnitude=7.0, erase=0.25, mel_masks=2, time_masks=2)
