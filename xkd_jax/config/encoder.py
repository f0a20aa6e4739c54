"""What describes one modality's encoder, ours or other people's, apart from its parameters."""

from __future__ import annotations

import dataclasses
from typing import Literal

from data_pipelines.loader_config import Modality, ViewConfig
from xkd_jax.config.pretraining import Transformer


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A ViT over one modality's patches; the defaults are XKD's.

    Attributes:
      transformer: the blocks.
      view: the input that the positions were learned for, how it is normalized, and the patch.
      special_tokens: how many learned tokens come before the patches': XKD has one, CLS.
      stride: from one patch to the next along each axis; None: patches don't overlap.
      norm: where the final LayerNorm stands: on each token, on the pooled features, or nowhere.
      norm_eps: of the final LayerNorm.
      pool: the tokens whose mean is the features of an input.
      spectrogram: how sound becomes the audio view's bands: as XKD's log-mel
        (`data_pipelines.format.log_mel`), or as Kaldi's filter bank with zeros after the end
        (`xkd_jax.inference.kaldi`).
    """

    transformer: Transformer
    view: ViewConfig
    special_tokens: int = 1
    stride: tuple[int, ...] | None = None
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    norm_eps: float = 1e-5
    pool: Literal["patches", "special"] = "patches"
    spectrogram: Literal["log_mel", "kaldi"] = "log_mel"

    @property
    def modality(self) -> Modality:
        return self.view.modality

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis of the view."""
        return patch_grid(self.view.global_shape, self.view.patch, self.stride)


# What of a view's config describes an encoder's input; the rest is for training.
INPUT_FIELDS: dict[Modality, tuple[str, ...]] = {
    "video": ("frame_rate", "frames", "size", "patch", "mean", "std"),
    "audio": ("sample_rate", "fft", "hop", "mels", "columns", "patch", "mean", "std"),
}


def input_view(view: ViewConfig) -> ViewConfig:
    """A view with the defaults for all that is not its encoder's input."""
    return type(view)(**{name: getattr(view, name) for name in INPUT_FIELDS[view.modality]})


def patch_grid(
    shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...] | None
) -> tuple[int, ...]:
    """How many whole patches fit along each axis of a view.

    Args:
      shape: of the view, without batch and color.
      patch: sides of a patch.
      stride: from one patch to the next; None: the patch's sides.
    """
    sides = zip(shape, patch, stride or patch, strict=True)
    return tuple((size - side) // step + 1 for size, side, step in sides)
