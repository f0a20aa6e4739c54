"""The encoders of both modalities, and what they share."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from data_pipelines.loader_config import MODALITIES, AudioConfig, Modality, VideoConfig
from xkd_jax.config.pretraining import ModelConfig
from xkd_jax.networks.blocks import Blocks, DropPath, layer_norm, linear
from xkd_jax.networks.patches import gather_tokens, patchify
from xkd_jax.networks.positions import resize_positions

SHARED = "shared"


def embedding_init() -> nnx.Initializer:
    """Initializer of tokens and positions: normal, 0.02.

    The reference's truncated normal cuts at 100 standard deviations, so it is a normal one.
    """
    return nnx.initializers.normal(0.02)


class Embedding(nnx.Module):
    """A modality's patch projection, CLS token and learned positions."""

    def __init__(
        self,
        view: VideoConfig | AudioConfig,
        width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.patch = view.patch
        self.grid = view.grid
        self.interpolation = view.interpolation
        self.dtype = dtype
        self.projection = linear(view.patch_values, width, ("patch", "embed"), dtype, rngs)
        init = embedding_init()
        self.cls = nnx.Param(init(rngs.params(), (1, width)), out_sharding=(None, "embed"))
        self.positions = nnx.Param(
            init(rngs.params(), (1 + view.tokens, width)), out_sharding=(None, "embed")
        )

    def patches(self, view: Float[Array, "batch ..."]) -> Float[Array, "batch tokens values"]:
        """Cuts views into flattened patches."""
        return patchify(view, self.patch)

    def __call__(
        self, view: Float[Array, "batch ..."], keep: Integer[Array, "batch kept"] | None = None
    ) -> Float[Array, "batch embedded width"]:
        """Embeds views as tokens, CLS first; with `keep`, only those tokens follow.

        A view of another size than the global one gets interpolated positions.
        """
        grid = tuple(n // p for n, p in zip(view.shape[1:], self.patch, strict=False))
        positions = resize_positions(self.positions[...], self.grid, grid, self.interpolation)
        positions = positions.astype(self.dtype)[None]
        tokens = self.projection(self.patches(view)) + positions[:, 1:]
        if keep is not None:
            tokens = gather_tokens(tokens, keep)
        cls = self.cls[...].astype(self.dtype)[None] + positions[:, :1]
        cls = jnp.broadcast_to(cls, (len(tokens), *cls.shape[1:]))
        return jnp.concatenate([cls, tokens], axis=1)


class Encoders(nnx.Module):
    """One ViT a modality; with `shared`, both run their tokens through the same blocks.

    Embeddings, positions, CLS tokens and final norms always belong to their modality.
    """

    def __init__(
        self,
        model: ModelConfig,
        views: dict[Modality, VideoConfig | AudioConfig],
        *,
        shared: bool,
        rngs: nnx.Rngs,
    ):
        width, dtype = model.encoder.width, jnp.dtype(model.compute_dtype)
        self.shared = shared
        self.embeddings = nnx.Dict(
            {m: Embedding(views[m], width, dtype=dtype, rngs=rngs) for m in MODALITIES}
        )
        self.blocks = nnx.Dict(
            {
                owner: Blocks(
                    model.encoder,
                    dtype=dtype,
                    attention=model.attention,
                    remat=model.remat,
                    rngs=rngs,
                )
                for owner in ((SHARED,) if shared else MODALITIES)
            }
        )
        self.norms = nnx.Dict({m: layer_norm(width, dtype, rngs) for m in MODALITIES})

    def __call__(
        self,
        modality: Modality,
        view: Float[Array, "batch ..."],
        keep: Integer[Array, "batch kept"] | None = None,
        drop_path: DropPath | None = None,
    ) -> Float[Array, "batch embedded width"]:
        """Encodes views into tokens, CLS first; with `keep`, only of those tokens.

        Video views are float32 [batch, frames, height, width, color], audio views [batch, mel,
        time], both normalized.
        """
        tokens = self._blocks(modality)(self.embeddings[modality](view, keep), drop_path)
        return self.norms[modality](tokens)

    def with_cls_attention(
        self, modality: Modality, view: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch embedded width"], Float[Array, "batch heads tokens"]]:
        """Encodes views, and also returns the last block's CLS attention over the patch tokens."""
        tokens, attention = self._blocks(modality).with_cls_attention(
            self.embeddings[modality](view)
        )
        return self.norms[modality](tokens), attention

    def _blocks(self, modality: Modality) -> Blocks:
        return self.blocks[SHARED if self.shared else modality]


def pool(tokens: Float[Array, "batch embedded width"]) -> Float[Array, "batch width"]:
    """The mean of the patch tokens in float32, without CLS."""
    return tokens[:, 1:].mean(1, dtype=jnp.float32)
