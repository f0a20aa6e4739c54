"""The interface of formats of weights, and encoders from named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import ModelConfig, Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.tensor_names import Entry, encoder_entries, tree_of
from xkd_jax.method.train_state import abstract_module
from xkd_jax.networks.decoder import Decoder
from xkd_jax.networks.encoder import Encoder
from xkd_jax.networks.precision import resolved_model
from xkd_jax.networks.tree import Tree


class DecoderWeights(NamedTuple):
    """A decoder that belongs to an encoder, as in pretraining.

    Attributes:
      transformer: its sizes.
      mask_ratio: fraction of the tokens that are masked.
      params: float32, in the structure of `Decoder`.
    """

    transformer: Transformer
    mask_ratio: float
    params: Tree


class EncoderWeights(NamedTuple):
    """An encoder's config and its parameters, float32, in the structure of `Encoder`.

    Attributes:
      config: of the encoder.
      params: of the encoder.
      decoder: that was trained with it; None: unknown.
    """

    config: EncoderConfig
    params: Tree
    decoder: DecoderWeights | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of an import.

    Attributes:
      network: "student" or "teacher", for files with both.
      given: values that the file does not have.
      config: content of config.json in the same folder, or {}.
      preprocessor: content of preprocessor_config.json in the same folder, or {}.
      alone: whether there is no other source that given values may be for.
    """

    network: str = "student"
    given: Given = dataclasses.field(default_factory=Given)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    alone: bool = True

    def refuse_given(self, path: str) -> None:
        """Checks that no value is given for weights that state all of them.

        Args:
          path: of the weights, for the message.

        Raises:
          UserError: a value is given.
        """
        if self.alone:
            self.given.refuse(path)


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
      name: name in messages.
      family: name of the method.
      license: license of the published weights of this kind.
      recognizes: (names of tensors) -> whether they are of this kind.
      convert: returns the encoders, and counts the other tensors as left.
      both_networks: whether a file has student and teacher.
    """

    name: str
    family: str
    license: str
    recognizes: Callable[[frozenset[str]], bool]
    convert: Callable[[StateDict, Request], dict[Modality, EncoderWeights]]
    both_networks: bool = False


def encoder_weights(
    config: EncoderConfig, tensors: Mapping[str, np.ndarray], path: str
) -> EncoderWeights:
    """Returns an encoder with tensors under the names of `tensor_names`.

    Args:
      config: the encoder's config.
      tensors: {name: float32 array}.
      path: of the file, for messages.

    Raises:
      UserError: a tensor is missing or has another shape than in the config.
    """

    def find(name: str) -> np.ndarray:
        if name not in tensors:
            raise UserError(
                f"{path} has no tensor {name}, which its other tensors require: give the whole"
                " file."
            )
        return tensors[name]

    entries = encoder_entries(config)
    try:
        params = tree_of(entries, find)
    except ValueError as error:
        raise UserError(
            f"{path} has tensors of shapes that don't fit together ({error}): give an intact copy."
        ) from None
    _check_shapes(entries, encoder_shapes(config), params, path)
    return EncoderWeights(config, params)


def decoder_weights(
    encoder: EncoderConfig,
    sizes: Transformer,
    entries: Sequence[Entry],
    find: Callable[[str], np.ndarray],
    path: str,
) -> Tree:
    """Returns a decoder's parameters from named tensors.

    Args:
      encoder: the encoder that it belongs to.
      sizes: of the decoder.
      entries: of its tensors.
      find: returns a tensor by its name.
      path: of the file, for messages.

    Raises:
      UserError: a tensor has another shape than the sizes require.
    """
    params = tree_of(entries, find)
    module = abstract_decoder(encoder, sizes, ModelConfig())
    like = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    _check_shapes(entries, like, params, path)
    return params


def _check_shapes(entries: Sequence[Entry], like: Tree, params: Tree, path: str) -> None:
    for entry in entries:
        expected, found = (_at(tree, entry.path) for tree in (like, params))
        if expected.shape != found.shape:
            raise UserError(
                f"{path} has {entry.name} of shape {found.shape} (in the order of this program),"
                f" and its other tensors need {expected.shape}: give an intact copy."
            )


def encoder_shapes(config: EncoderConfig) -> Tree:
    """Returns the shapes of an encoder's parameters, as a tree of `jax.ShapeDtypeStruct`."""
    return nnx.to_pure_dict(nnx.state(abstract_encoder(config, ModelConfig()), nnx.Param))


def abstract_encoder(config: EncoderConfig, model: ModelConfig) -> Encoder:
    """Returns the module with shapes in place of parameters.

    Args:
      config: the encoder's config.
      model: how it is computed (`Encoder.create`).
    """
    model = resolved_model(model)  # the dtype depends on the mesh's device
    return abstract_module(lambda: Encoder.create(config, model, nnx.Rngs(0)))


def abstract_decoder(encoder: EncoderConfig, sizes: Transformer, model: ModelConfig) -> Decoder:
    """Returns the module with shapes in place of parameters.

    Args:
      encoder: the encoder that it belongs to.
      sizes: of the decoder.
      model: how it is computed; its sizes are replaced.
    """
    size = f"{encoder.transformer.size}:{sizes.size}"
    model = dataclasses.replace(resolved_model(model), size=size)
    return abstract_module(lambda: Decoder(model, encoder.view, rngs=nnx.Rngs(0)))


def _at(tree: dict[Any, Any], path: tuple[str | int, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
