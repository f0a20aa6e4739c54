"""Reconstructions by a masked autoencoder, as images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import ComputeDtype, Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference import embedding
from xkd_jax.inference.formats.format import abstract_decoder, abstract_encoder
from xkd_jax.inference.programs import computation, cropped, normalized_spectrogram
from xkd_jax.inference.trained_model import Model
from xkd_jax.method.train_state import with_parameters
from xkd_jax.networks.tree import Tree
from xkd_jax.training.pictures.reconstructed_views import (
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
      model: with decoders: a student of a run, or of a training checkpoint of XKD's authors.
      source: path or URL of the file.
      seed: seed of the masks.

    Raises:
      UserError: the file can't be used, or the model has no decoders.
    """
    if not model.decoders:
        raise UserError(
            f"{model.origin} has no decoders, which the student of a run and a training checkpoint"
            " of XKD's authors have: load one of these."
        )
    views = embedding.first_views(model, source)
    found = {m: _pictures(model, m, rows, seed) for m, rows in views.items() if m in model.decoders}
    return Reconstruction(found.get("video"), found.get("audio"))


def _pictures(model: Model, modality: Modality, rows: Any, seed: int) -> Pictures:
    config, decoder = model.config[modality], model.decoders[modality]
    predict = _program(config, decoder.transformer, decoder.mask_ratio, model.compute_dtype)
    on_one_device = jax.tree.map(lambda a: a.addressable_data(0), model.parameters[modality])
    batch = jax.tree.map(lambda a: np.asarray(a)[None], rows)
    found = predict(on_one_device, decoder.params, batch, seed)
    return Pictures(*(unnormalized(config.view, np.asarray(v))[0] for v in found))


@functools.cache
def _program(
    config: EncoderConfig,
    decoder: Transformer,
    mask_ratio: float,
    compute_dtype: ComputeDtype,
) -> Callable[[Tree, Tree, Any, int], ReconstructedViews]:
    """Returns the compiled (encoder's parameters, decoder's, one file's inputs, seed) -> views."""
    how, settings = computation(compute_dtype), config.view
    prepare = cropped if config.modality == "video" else normalized_spectrogram

    @jax.jit
    def predict(encoder: Tree, params: Tree, rows: Any, seed: jax.Array) -> ReconstructedViews:
        noise = jax.random.uniform(jax.random.key(seed), (1, settings.tokens))
        encode = with_parameters(abstract_encoder(config, how), encoder)
        decode = with_parameters(abstract_decoder(config, decoder, how), params)
        view = prepare(config, rows)
        return reconstructed_views(encode, decode, settings, mask_ratio, how, view, noise)

    return predict
