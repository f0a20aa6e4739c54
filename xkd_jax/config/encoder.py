"""The config of one modality's encoder, of this project or of other projects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from data_pipelines.loader_config import DataConfig, LoaderConfig, Modality, ViewConfig
from xkd_jax.config.architecture import Transformer


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """A ViT over one modality's patches; the defaults are XKD's.

    Attributes:
      transformer: the blocks.
      view: size of the input that positions were learned for, its normalization, and the patch.
      special_tokens: number of learned tokens before the patch tokens; XKD has one, CLS.
      stride: distance of patches along each axis; None: patches don't overlap.
      norm: final LayerNorm of each token, of pooled features, or none.
      norm_eps: epsilon of the final LayerNorm.
      pool: tokens whose mean is the feature of an input.
    """

    transformer: Transformer
    view: ViewConfig
    special_tokens: int = 1
    stride: tuple[int, ...] | None = None
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    norm_eps: float = 1e-5
    pool: Literal["patches", "special"] = "patches"

    @property
    def modality(self) -> Modality:
        return self.view.modality

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis of the view."""
        return patch_grid(self.view.global_shape, self.view.patch, self.stride)


# Fields of a view's config that describe an encoder's input; the others are for training.
INPUT_FIELDS: dict[Modality, tuple[str, ...]] = {
    "video": ("frame_rate", "frames", "size", "patch", "mean", "std"),
    "audio": (
        "spectrogram",
        "sample_rate",
        "fft",
        "hop",
        "mels",
        "columns",
        "patch",
        "mean",
        "std",
    ),
}


def input_fields(view: ViewConfig) -> dict[str, Any]:
    """Returns the values of `INPUT_FIELDS`: lengths, rates, normalization, kind of spectrogram."""
    return {name: getattr(view, name) for name in INPUT_FIELDS[view.modality]}


def input_view(view: ViewConfig) -> ViewConfig:
    """Returns a view with defaults for all fields except `INPUT_FIELDS`."""
    return type(view)(**input_fields(view))


def loader_config(encoders: Mapping[Modality, EncoderConfig], short_side: int) -> LoaderConfig:
    """Returns the loader's config with the inputs of encoders.

    Args:
      encoders: config of each modality's encoder.
      short_side: of decoded frames in pixels.
    """
    inputs: dict[str, Any] = {m: encoder.view for m, encoder in encoders.items()}
    data = DataConfig(short_side=short_side)
    return LoaderConfig(modalities=tuple(encoders), data=data, **inputs)


def patch_grid(
    shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Returns the number of whole patches along each axis of a view.

    Args:
      shape: shape of the view, without batch and color.
      patch: sides of a patch.
      stride: distance of patches along each axis; None: the patch's sides.
    """
    sides = zip(shape, patch, stride or patch, strict=True)
    return tuple((size - side) // step + 1 for size, side, step in sides)
