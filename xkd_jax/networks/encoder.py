"""The encoders of all modalities, with shared or separate blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.architecture import Architecture, ModelConfig
from xkd_jax.config.encoder import EncoderConfig, patch_grid
from xkd_jax.networks.attention import split_tokens
from xkd_jax.networks.blocks import Blocks, DropPath
from xkd_jax.networks.layer_norm import layer_norm
from xkd_jax.networks.linear import affine, linear
from xkd_jax.networks.patches import colors_first, gather_tokens, stored_patches
from xkd_jax.networks.per_modality import per_modality
from xkd_jax.networks.positions import resize_positions

SHARED = "shared"


def embedding_init() -> nnx.Initializer:
    """Returns the initializer of tokens and positions: normal, standard deviation 0.02.

    The authors truncate it at 100 standard deviations, which has no effect.
    """
    return nnx.initializers.normal(0.02)


class Embedding(nnx.Module):
    """A modality's patch projection, special tokens (XKD: CLS) and learned positions."""

    def __init__(self, config: EncoderConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        view, width = config.view, config.transformer.width
        self.config = config
        self.dtype = dtype
        self.projection = linear(view.patch_values, width, ("patch", "embed"), dtype, rngs)

        def learned(rows: int) -> nnx.Param:
            value = embedding_init()(rngs.params(), (rows, width))
            return nnx.Param(value, out_sharding=(None, "embed"))

        self.cls = learned(config.special_tokens) if config.special_tokens else None
        self.positions = learned(config.special_tokens + math.prod(config.grid))

    def patches(self, view: Float[Array, "batch ..."]) -> Float[Array, "batch tokens values"]:
        """Cuts views into flattened patches."""
        config = self.config.view
        kernel = getattr(config, "kernel", None) == "auto"
        return stored_patches(view, config.patch, self.config.stride, kernel=kernel)

    def __call__(
        self, view: Float[Array, "batch ..."], keep: Integer[Array, "batch kept"] | None = None
    ) -> Float[Array, "batch embedded width"]:
        """Returns the tokens of views, special tokens first.

        Args:
          view: views; positions are interpolated if they have another size than the global view.
          keep: indices of the patches to embed; None: all.
        """
        config, special = self.config, self.config.special_tokens
        patch, interpolation = config.view.patch, config.view.interpolation
        grid = patch_grid(view.shape[1 : 1 + len(patch)], patch, config.stride)
        positions = resize_positions(self.positions[...], config.grid, grid, interpolation)
        positions = positions.astype(self.dtype)[None]
        patches, places = self.patches(view), positions[:, special:]
        if keep is not None:
            patches, places = gather_tokens(patches, keep), places[0, keep]
        tokens = self._project(patches) + places
        if self.cls is None:
            return tokens
        cls = self.cls[...].astype(self.dtype)[None] + positions[:, :special]
        cls = jnp.broadcast_to(cls, (len(tokens), *cls.shape[1:]))
        return jnp.concatenate([cls, tokens], axis=1)

    def _project(
        self, patches: Float[Array, "batch tokens values"]
    ) -> Float[Array, "batch tokens width"]:
        projection = self.projection
        kernel = colors_first(projection.kernel[...].T, self.config.view.patch).T
        return affine(patches.astype(self.dtype), kernel, projection.bias)


class Encoder(nnx.Module):
    """The ViT of one modality, from views to tokens and pooled features."""

    def __init__(self, embedding: Embedding, blocks: Blocks, norm: nnx.LayerNorm | None):
        """Combines the parts; `norm` is None if the config's `norm` is "none"."""
        self.config = embedding.config
        self.embedding = embedding
        self.blocks = blocks
        self.norm = norm

    @classmethod
    def create(cls, config: EncoderConfig, model: ModelConfig, rngs: nnx.Rngs) -> Encoder:
        """Returns an encoder with initial parameters.

        Args:
          config: sizes and input of the encoder.
          model: how it is computed: dtype (not `auto`), attention, rematerialization, loop over
            the blocks.
          rngs: source of the initial values.
        """
        dtype = jnp.dtype(model.compute_dtype)
        return cls(
            Embedding(config, dtype=dtype, rngs=rngs),
            Blocks.of(config.transformer, model, rngs),
            final_norm(config, dtype, rngs),
        )

    def __call__(
        self,
        view: Float[Array, "batch ..."],
        keep: Integer[Array, "batch kept"] | None = None,
        drop_path: DropPath | None = None,
    ) -> Float[Array, "batch embedded width"]:
        """Encodes views to tokens, special tokens first.

        Args:
          view: normalized, float32: video [batch, frames, height, width, color], audio [batch, mel,
            time].
          keep: indices of the patches to encode; None: all.
          drop_path: stochastic depth; None: off.
        """
        return self._normed(self.blocks(self.embedding(view, keep), drop_path))

    def encode_views(
        self, views: Sequence[tuple[Float[Array, "batch ..."], Integer[Array, "batch _"] | None]]
    ) -> list[Float[Array, "batch _ width"]]:
        """Encodes several views of each sample in one pass; tokens attend only within their view.

        The blocks' weights, and the sums of their gradients, are then read and written once.

        Args:
          views: (view, indices of the patches to encode; None: all), as the arguments of separate
            calls.

        Returns:
          The tokens of each view.
        """
        tokens = [self.embedding(view, keep) for view, keep in views]
        lengths = tuple(of.shape[1] for of in tokens)
        encoded = self._normed(self.blocks(jnp.concatenate(tokens, axis=1), segments=lengths))
        return split_tokens(encoded, lengths)

    def with_cls_attention(
        self, view: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch embedded width"], Float[Array, "batch heads tokens"]]:
        """Encodes views, and also returns the last block's CLS attention to the patch tokens."""
        tokens, attention = self.blocks.with_cls_attention(self.embedding(view))
        return self._normed(tokens), attention

    def pool(self, tokens: Float[Array, "batch embedded width"]) -> Float[Array, "batch width"]:
        """Returns the features of tokens in float32, pooled as by the encoder's authors."""
        special = self.config.special_tokens
        mean = (
            tokens[:, :special].mean(1, dtype=jnp.float32)
            if self.config.pool == "special"
            else pool(tokens, special)
        )
        if self.norm is None or self.config.norm != "pooled":
            return mean
        return self.norm(mean).astype(jnp.float32)

    def _normed(self, tokens: jax.Array) -> jax.Array:
        if self.norm is None or self.config.norm != "tokens":
            return tokens
        return self.norm(tokens)


def final_norm(config: EncoderConfig, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm | None:
    """Returns the LayerNorm after the blocks, or None.

    Args:
      config: of the encoder; its `norm` is the place of the norm.
      dtype: compute dtype for a norm of tokens; a norm of pooled features is float32.
      rngs: random streams of its parameters.
    """
    if config.norm == "none":
        return None
    dtype = jnp.float32 if config.norm == "pooled" else dtype
    return layer_norm(config.transformer.width, dtype, rngs, eps=config.norm_eps)


class Encoders(nnx.Module):
    """One ViT for each modality; with `shared`, all of them have the same blocks.

    Embeddings, positions, CLS tokens and final norms are separate.
    """

    def __init__(self, architecture: Architecture, *, shared: bool, rngs: nnx.Rngs):
        model, modalities = architecture.model, architecture.modalities
        dtype = jnp.dtype(model.compute_dtype)
        self.shared = shared
        configs = {m: EncoderConfig(model.encoder, architecture.views[m]) for m in MODALITIES}
        self.embeddings = per_modality(
            lambda m: Embedding(configs[m], dtype=dtype, rngs=rngs), modalities
        )

        def blocks() -> Blocks:
            return Blocks.of(model.encoder, model, rngs)

        self.blocks = (
            nnx.Dict({SHARED: blocks()}) if shared else per_modality(lambda _: blocks(), modalities)
        )
        self.norms = per_modality(lambda m: final_norm(configs[m], dtype, rngs), modalities)

    def __call__(
        self,
        modality: Modality,
        view: Float[Array, "batch ..."],
        keep: Integer[Array, "batch kept"] | None = None,
        drop_path: DropPath | None = None,
    ) -> Float[Array, "batch embedded width"]:
        """Encodes views of a modality; see `Encoder`."""
        return self.encoder(modality)(view, keep, drop_path)

    def encode_views(
        self,
        modality: Modality,
        views: Sequence[tuple[Float[Array, "batch ..."], Integer[Array, "batch _"] | None]],
    ) -> list[Float[Array, "batch _ width"]]:
        """Encodes several views of each sample in one pass; see `Encoder`."""
        return self.encoder(modality).encode_views(views)

    def with_cls_attention(
        self, modality: Modality, view: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch embedded width"], Float[Array, "batch heads tokens"]]:
        """Encodes views of a modality, with CLS attention; see `Encoder`."""
        return self.encoder(modality).with_cls_attention(view)

    def encoder(self, modality: Modality) -> Encoder:
        """Returns the encoder of one modality, with this module's parameters."""
        blocks = self.blocks[SHARED if self.shared else modality]
        return Encoder(self.embeddings[modality], blocks, self.norms[modality])


def pool(
    tokens: Float[Array, "batch embedded width"], special_tokens: int = 1
) -> Float[Array, "batch width"]:
    """Returns the mean of the patch tokens in float32, without CLS or other special tokens."""
    return tokens[:, special_tokens:].mean(1, dtype=jnp.float32)
