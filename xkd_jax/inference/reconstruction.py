"""Reconstructions by a masked autoencoder, as images."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.config.pretraining import Architecture
from xkd_jax.inference import embedding
from xkd_jax.inference.trained_model import Model, cropped, normalized_spectrogram
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.student import Student
from xkd_jax.networks.tree import Tree
from xkd_jax.training.reconstructed_views import (
    ReconstructedViews,
    reconstructed_views,
    unnormalized,
)


class Pictures(NamedTuple):
    """One view three times: uint8 [time, height, width, 3], or float32 log-mel [mel, time].

    Attributes:
      original: the input of the network.
      masked: the same with masked patches gray, or at the mean.
      predicted: the same with predictions of masked patches, scaled to the patch's mean and
        deviation, which the network does not predict.
    """

    original: np.ndarray
    masked: np.ndarray
    predicted: np.ndarray


class Reconstruction(NamedTuple):
    """Reconstructions of a clip; None for a modality that the file lacks."""

    video: Pictures | None
    audio: Pictures | None


def reconstruct(model: Model, source: str, seed: int) -> Reconstruction:
    """Returns the reconstructions of the first clip of a file (`Model.reconstruct`).

    Args:
      model: a run's student.
      source: path or URL of the file.
      seed: seed of the masks.

    Raises:
      UserError: the file can't be used, or the model has no decoders.
    """
    if model.student is None:
        raise UserError(
            f"{model.origin} has no decoders, which only the student of a run has: load a run."
        )
    architecture, params = model.student
    views = embedding.first_views(model, source)
    found: dict[Modality, Pictures] = {}
    for modality, rows in views.items():
        prepare = cropped if modality == "video" else normalized_spectrogram
        view = prepare(model.config[modality], jax.tree.map(lambda a: jnp.asarray(a)[None], rows))
        found[modality] = _pictures(architecture, params, modality, view, seed)
    return Reconstruction(found.get("video"), found.get("audio"))


def _pictures(
    architecture: Architecture, params: Tree, modality: Modality, view: jax.Array, seed: int
) -> Pictures:
    settings = architecture.views[modality]

    @jax.jit
    def predict(params: Tree, view: jax.Array) -> ReconstructedViews:
        student = module_of(Student, params, architecture)
        noise = jax.random.uniform(jax.random.key(seed), (1, settings.tokens))
        return reconstructed_views(student, architecture, modality, view, noise)

    return Pictures(*(unnormalized(settings, np.asarray(v))[0] for v in predict(params, view)))
