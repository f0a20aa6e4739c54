"""The encoders of both modalities, and what they share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from xkd_jax.config import MODALITIES, AudioConfig, Modality, ModelConfig, VideoConfig
from xkd_jax.networks.blocks import Blocks, DropPath, layer_norm, linear
from xkd_jax.networks.patches import gather_tokens, patchify_audio, patchify_video
from xkd_jax.networks.positions import Interpolation, resize_positions

SHARED = "shared"

# How each axis of the token grid is interpolated; mel bands never change in number.
_INTERPOLATION: dict[Modality, tuple[Interpolation | None, ...]] = {
    "video": ("linear", "linear", "linear"),
    "audio": (None, "cubic"),
}


def embedding_init() -> nnx.Initializer:
    """Initialiser of tokens and positions: normal, 0.02.

    The reference's truncated normal cuts at 100 standard deviations, so it is a normal one.
    """
    return nnx.initializers.normal(0.02)


class Embedding(nnx.Module):
    """A modality's patch projection, CLS token and learned positions."""

    def __init__(
        self,
        modality: Modality,
        view: VideoConfig | AudioConfig,
        width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.modality = modality
        self.patch = view.patch
        self.grid = view.grid
        self.dtype = dtype
        self.projection = linear(view.patch_values, width, ("patch", "embed"), dtype, rngs)
        init = embedding_init()
        self.cls = nnx.Param(init(rngs.params(), (1, width)), out_sharding=(None, "embed"))
        self.positions = nnx.Param(
            init(rngs.params(), (1 + view.tokens, width)), out_sharding=(None, "embed")
        )

    def patches(self, view: jax.Array) -> jax.Array:
        """Flattens a batch of views into float32 patches [batch, tokens, values]."""
        patchify = patchify_video if self.modality == "video" else patchify_audio
        return patchify(view, self.patch)

    def __call__(self, view: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """Embeds views as tokens [batch, 1 + tokens, width], CLS first.

        With `keep`, int32 [batch, kept], only those tokens follow CLS. A view of another size than
        the global one gets interpolated positions.
        """
        grid = _grid(view.shape[1:], self.patch)
        positions = resize_positions(
            self.positions[...], self.grid, grid, _INTERPOLATION[self.modality]
        ).astype(self.dtype)
        tokens = self.projection(self.patches(view)) + positions[1:]
        if keep is not None:
            tokens = gather_tokens(tokens, keep)
        cls = self.cls[...].astype(self.dtype) + positions[:1]
        cls = jnp.broadcast_to(cls, (tokens.shape[0], *cls.shape))
        return jnp.concatenate([cls, tokens], axis=1)


def _grid(shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n // p for n, p in zip(shape, patch, strict=False))


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
            {m: Embedding(m, views[m], width, dtype=dtype, rngs=rngs) for m in MODALITIES}
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
        view: jax.Array,
        keep: jax.Array | None = None,
        drop_path: DropPath | None = None,
    ) -> jax.Array:
        """Encodes views into tokens [batch, 1 + tokens, width], CLS first (see `Embedding`).

        Video views are float32 [batch, frames, height, width, colour], audio views [batch, mel,
        time], both normalised.
        """
        tokens = self._blocks(modality)(self.embeddings[modality](view, keep), drop_path)
        return self.norms[modality](tokens)

    def with_cls_attention(
        self, modality: Modality, view: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes views, and returns the last block's CLS attention [batch, heads, tokens] too."""
        tokens, attention = self._blocks(modality).with_cls_attention(
            self.embeddings[modality](view)
        )
        return self.norms[modality](tokens), attention

    def _blocks(self, modality: Modality) -> Blocks:
        return self.blocks[SHARED if self.shared else modality]


def pool(tokens: jax.Array) -> jax.Array:
    """Mean over the patch tokens, CLS left out: [batch, 1 + tokens, width] to [batch, width]."""
    return tokens[:, 1:].mean(1, dtype=jnp.float32)
