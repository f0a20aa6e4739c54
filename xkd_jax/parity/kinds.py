"""The kinds of golden files; keys that only one kind has identify it."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable

from data_pipelines.errors import UserError
from xkd_jax.parity import golden_training_clips, golden_views, optimization, steps
from xkd_jax.parity.comparison import Report
from xkd_jax.parity.golden_file import GoldenFile


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of golden file.

    Attributes:
      name: name in messages.
      keys: patterns; a file with a key that matches one of them is of this kind.
      compare: runs our code on the file's inputs.
    """

    name: str
    keys: tuple[str, ...]
    compare: Callable[[GoldenFile], Report]


KINDS = (
    Kind("training steps", ("meta",), steps.training_steps),
    Kind("log-mel spectrograms", ("*/waveform", "*/log_mel"), golden_views.log_mels),
    Kind("video views", ("*/frames", "*/box", "*/resized"), golden_views.video_augment),
    Kind("spectrogram crops", ("boxes", "crops"), golden_views.spectrogram_crop),
    Kind(
        "SpecAugment",
        ("warp_column_moved", "warped", "masked"),
        golden_training_clips.spec_augments,
    ),
    Kind("RandAugment", ("*/plus", "*/minus"), golden_training_clips.rand_augments),
    Kind("mixed targets", ("share", "targets"), golden_training_clips.mixup_targets),
    Kind("CutMix boxes", ("rows",), golden_training_clips.cutmix_boxes),
    Kind("schedules", ("steps_per_epoch", "learning_rate"), optimization.schedule_values),
)
LAYERS = Kind("layer decay", ("head.classifier.weight", "blocks.0.*"), optimization.layer_decay)


def kind_of(file: GoldenFile) -> Kind:
    """Returns the kind of a file.

    Raises:
      UserError: no key of the file matches a kind.
    """
    kinds = (LAYERS,) if file.is_json else KINDS
    for kind in kinds:
        if any(fnmatch.filter(file.content, pattern) for pattern in kind.keys):
            return kind
    found = ", ".join(map(repr, sorted(file.content)[:5])) or "none"
    known = ", ".join(kind.name for kind in (*KINDS, LAYERS))
    raise UserError(
        f"{file.path} is not a golden case (its first keys: {found}): give a file of one of the"
        f" kinds {known}."
    )
