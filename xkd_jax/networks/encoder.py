"""The encoders of all modalities, and what they share."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.encoder import EncoderConfig, patch_grid
from xkd_jax.config.pretraining import Architecture, Attention, Remat
from xkd_jax.networks.blocks import Blocks, DropPath, linear
from xkd_jax.networks.layer_norm import layer_norm
from xkd_jax.networks.patches import gather_tokens, patchify
from xkd_jax.networks.per_modality import per_modality
from xkd_jax.networks.positions import resize_positions

SHARED = "shared"


def embedding_init() -> nnx.Initializer:
    """Initializer of tokens and positions: normal, 0.02.

    The reference's truncated normal cuts at 100 standard deviations, so it is a normal one.
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
        return patchify(view, self.config.view.patch, self.config.stride)

    def __call__(
        self, view: Float[Array, "batch ..."], keep: Integer[Array, "batch kept"] | None = None
    ) -> Float[Array, "batch embedded width"]:
        """Embeds views as tokens, special ones first; with `keep`, only those patches follow.

        A view of another size than the global one gets interpolated positions.
        """
        config, special = self.config, self.config.special_tokens
        patch, interpolation = config.view.patch, config.view.interpolation
        grid = patch_grid(view.shape[1 : 1 + len(patch)], patch, config.stride)
        positions = resize_positions(self.positions[...], config.grid, grid, interpolation)
        positions = positions.astype(self.dtype)[None]
        tokens = self.projection(self.patches(view)) + positions[:, special:]
        if keep is not None:
            tokens = gather_tokens(tokens, keep)
        if self.cls is None:
            return tokens
        cls = self.cls[...].astype(self.dtype)[None] + positions[:, :special]
        cls = jnp.broadcast_to(cls, (len(tokens), *cls.shape[1:]))
        return jnp.concatenate([cls, tokens], axis=1)


class Encoder(nnx.Module):
    """One modality's ViT, from views to tokens and to pooled features."""

    def __init__(self, embedding: Embedding, blocks: Blocks, norm: nnx.LayerNorm | None):
        """Puts the parts together; `norm` is None where the config's `norm` is "none"."""
        self.config = embedding.config
        self.embedding = embedding
        self.blocks = blocks
        self.norm = norm

    @classmethod
    def create(
        cls,
        config: EncoderConfig,
        *,
        dtype: DTypeLike,
        attention: Attention = "xla",
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ) -> Encoder:
        """Makes an encoder with fresh parameters; `dtype` is the one it computes in."""
        return cls(
            Embedding(config, dtype=dtype, rngs=rngs),
            Blocks(config.transformer, dtype=dtype, attention=attention, remat=remat, rngs=rngs),
            final_norm(config, dtype, rngs),
        )

    def __call__(
        self,
        view: Float[Array, "batch ..."],
        keep: Integer[Array, "batch kept"] | None = None,
        drop_path: DropPath | None = None,
    ) -> Float[Array, "batch embedded width"]:
        """Encodes views into tokens, special ones first; with `keep`, only of those patches.

        Video views are float32 [batch, frames, height, width, color], audio views [batch, mel,
        time], both normalized.
        """
        return self._normed(self.blocks(self.embedding(view, keep), drop_path))

    def with_cls_attention(
        self, view: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch embedded width"], Float[Array, "batch heads tokens"]]:
        """Encodes views, and also returns the last block's CLS attention over the patch tokens."""
        tokens, attention = self.blocks.with_cls_attention(self.embedding(view))
        return self._normed(tokens), attention

    def pool(self, tokens: Float[Array, "batch embedded width"]) -> Float[Array, "batch width"]:
        """Features of an input in float32, from its tokens: as its authors pool them."""
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
    """The LayerNorm behind the blocks, where the encoder has one; of pooled features in float32."""
    if config.norm == "none":
        return None
    dtype = jnp.float32 if config.norm == "pooled" else dtype
    return layer_norm(config.transformer.width, dtype, rngs, eps=config.norm_eps)


class Encoders(nnx.Module):
    """One ViT a modality; with `shared`, all run their tokens through the same blocks.

    Embeddings, positions, CLS tokens and final norms always belong to their modality.
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
            return Blocks(
                model.encoder,
                dtype=dtype,
                attention=model.attention,
                remat=model.remat,
                layers=model.layers,
                rngs=rngs,
            )

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

    def with_cls_attention(
        self, modality: Modality, view: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch embedded width"], Float[Array, "batch heads tokens"]]:
        """Encodes views of a modality, with CLS attention; see `Encoder`."""
        return self.encoder(modality).with_cls_attention(view)

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of one modality, which shares its parameters with this module."""
        blocks = self.blocks[SHARED if self.shared else modality]
        return Encoder(self.embeddings[modality], blocks, self.norms[modality])


def pool(
    tokens: Float[Array, "batch embedded width"], special_tokens: int = 1
) -> Float[Array, "batch width"]:
    """The mean of the patch tokens in float32, without CLS or other special tokens."""
    return tokens[:, special_tokens:].mean(1, dtype=jnp.float32)
