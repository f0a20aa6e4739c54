"""The evaluated encoders, and a run's projection heads, as functions of parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx
from jax.sharding import Mesh

from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import ModelConfig
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.format import abstract_encoder
from xkd_jax.method.state_shardings import module_shardings
from xkd_jax.method.train_state import abstract_module, with_parameters
from xkd_jax.networks.encoder import Encoder
from xkd_jax.networks.head import Head
from xkd_jax.networks.precision import resolved_model
from xkd_jax.networks.tree import Tree


@dataclasses.dataclass(frozen=True)
class Network:
    """Encoders of one or two modalities, of this project or of other projects.

    Attributes:
      encoders: config of each modality's encoder.
      model: how they are computed, and sizes of the heads of a run.
    """

    encoders: Mapping[Modality, EncoderConfig]
    model: ModelConfig

    def encoder(self, modality: Modality, params: Tree) -> Encoder:
        """Returns an encoder with parameters in the structure of `Encoder`."""
        return with_parameters(abstract_encoder(self.encoders[modality], self.model), params)

    def head(self, modality: Modality, params: Tree) -> Head:
        """Returns the projection head behind an encoder, with parameters as of `Head`."""
        width, model = self.encoders[modality].transformer.width, resolved_model(self.model)
        dtype = model.compute_dtype
        head = abstract_module(lambda: Head(width, model.head, dtype=dtype, rngs=nnx.Rngs(0)))
        return with_parameters(head, params)

    def shardings(self, modality: Modality, mesh: Mesh) -> Tree:
        """Returns the shardings of an encoder's parameters, as in pretraining."""
        return module_shardings(abstract_encoder(self.encoders[modality], self.model), mesh)
