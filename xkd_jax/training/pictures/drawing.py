"""Draws views, reconstructions and attention as pictures, for TensorBoard and for reports."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from data_pipelines.loader_config import ViewConfig
from data_pipelines.tiles import false_colors
from xkd_jax.training.pictures.reconstructed_views import ReconstructedViews, unnormalized

# Brightness of a patch without attention, as a fraction of the original.
_DARKEST = 0.12


class Drawn(NamedTuple):
    """Pictures of a modality, uint8 [clips, time, height, width, 3]; a spectrogram has time 1.

    Attributes:
      original: the input of the network.
      masked: the same with masked patches gray; None without a trained decoder.
      predicted: the same with predictions of the masked patches; None without a trained decoder.
      attention: the input, darker where the CLS token attends less.
    """

    original: np.ndarray
    masked: np.ndarray | None
    predicted: np.ndarray | None
    attention: np.ndarray


def drawn(
    settings: ViewConfig,
    view: np.ndarray,
    views: ReconstructedViews | None,
    attention: np.ndarray,
) -> Drawn:
    """Draws clips of one modality.

    Args:
      settings: of the views.
      view: normalized global views, float32 [clips, ...].
      views: masked and predicted; None without a trained decoder.
      attention: of the CLS token to the patches, float32 [clips, tokens].
    """
    original = pictures(settings, view)
    masked, predicted = (
        (pictures(settings, part, view) for part in (views.masked, views.predicted))
        if views is not None
        else (None, None)
    )
    return Drawn(original, masked, predicted, lit(settings, original, attention))


def pictures(settings: ViewConfig, view: ArrayLike, scale: ArrayLike | None = None) -> np.ndarray:
    """Returns views as pictures, uint8 [clips, time, height, width, 3].

    Spectrograms are in false colors, with low frequencies at the bottom, and have a time of 1.

    Args:
      settings: of the views.
      view: normalized views, float32 [clips, ...].
      scale: normalized spectrograms whose least and largest value are the ends of the colors; None:
        `view`.
    """
    shown = unnormalized(settings, np.asarray(view))
    if settings.channels:
        return shown
    levels = shown if scale is None else unnormalized(settings, np.asarray(scale))
    low, high = levels.min(), levels.max()
    shown = np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
    gray = (255 * shown).astype(np.uint8)[:, ::-1]
    return np.stack([false_colors(g) for g in gray])[:, None]


def lit(settings: ViewConfig, images: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Returns pictures in which patches with less attention are darker.

    The patch of a clip with the most attention is unchanged.

    Args:
      settings: of the views.
      images: of `pictures`, uint8 [clips, time, height, width, 3].
      attention: float32 [clips, tokens].
    """
    weights = np.asarray(attention, np.float32).reshape(len(images), *settings.grid)
    for axis, side in enumerate(settings.patch, 1):
        weights = weights.repeat(side, axis)
    if not settings.channels:
        weights = weights[:, None, ::-1]
    largest = weights.max(axis=(1, 2, 3), keepdims=True)
    light = _DARKEST + (1 - _DARKEST) * weights / np.maximum(largest, 1e-12)
    return np.rint(images * light[..., None]).astype(np.uint8)
