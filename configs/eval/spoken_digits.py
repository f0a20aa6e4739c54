"""The demo's spoken digits, linear SVM on video, audio, or both: held-out writers and voices.

    python main.py --config=configs/demo.py
    python main.py --config=configs/eval/spoken_digits.py:video --config.checkpoint=runs/demo \
        --config.data.dir=runs/demo/data --workdir=runs/demo_svm_video

A record is one clip. `--config.network=untrained` is the same network with its initial parameters.
No published numbers.
"""

import ml_collections

from configs.eval import kinetics_sound


def get_config(modality: str = "video") -> ml_collections.ConfigDict:
    """One training clip without color changes or flips, as digits have neither; one test clip."""
    config = kinetics_sound.get_config(modality)
    config.benchmark = "spoken_digits"
    config.data.test_split = "test"
    config.clips.update(train=1, test=1, crops=1)
    config.clips.video.update(area=(0.5, 1.0), flip=0.0, brightness=0.0, contrast=0.0)
    config.clips.video.update(saturation=0.0, hue=0.0, grayscale=0.0)
    return config
