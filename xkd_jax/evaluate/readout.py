"""The classifier on an encoder's tokens: pooling and a linear layer."""

from __future__ import annotations

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from xkd_jax.config.architecture import Transformer
from xkd_jax.networks.encoder import embedding_init
from xkd_jax.networks.layer_norm import layer_norm
from xkd_jax.networks.linear import linear

_SMALLEST_NORM = 1e-12


class AttentivePool(nnx.Module):
    """Attention pooling: one learned query attends to normalized patch tokens, in float32."""

    def __init__(self, encoder: Transformer, *, rngs: nnx.Rngs):
        width, heads = encoder.width, encoder.heads
        self.norm = layer_norm(width, jnp.float32, rngs)
        self.query = nnx.Param(embedding_init()(rngs.params(), (heads, width // heads)))
        self.keys_values = linear(
            width, (2, heads, width // heads), ("embed", None, "heads", None), jnp.float32, rngs
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps patch tokens [batch, tokens, width] to float32 [batch, width]."""
        normed = self.norm(tokens.astype(jnp.float32))
        keys, values = einops.rearrange(self.keys_values(normed), "b n two h d -> two b n h d")
        query = jnp.broadcast_to(self.query[...], (len(tokens), 1, *self.query.shape))
        attended = jax.nn.dot_product_attention(query, keys, values)
        return einops.rearrange(attended, "b 1 h d -> b (h d)")


class Readout(nnx.Module):
    """A linear layer from pooled features to the classes, with or without attention pooling."""

    def __init__(self, encoder: Transformer, classes: int, *, attentive: bool, rngs: nnx.Rngs):
        self.pool = AttentivePool(encoder, rngs=rngs) if attentive else None
        self.classes = linear(
            encoder.width,
            classes,
            ("embed", "outputs"),
            jnp.float32,
            rngs,
            kernel_init=nnx.initializers.orthogonal(),
        )

    def __call__(
        self,
        tokens: jax.Array,
        pooled: jax.Array,
        *,
        normalize: bool = False,
        dropout: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns float32 scores [batch, classes].

        Args:
          tokens: patch tokens of the encoder, [batch, tokens, width]; only attention pools them.
          pooled: features of the encoder, float32 [batch, width]; unused with attention pooling.
          normalize: whether pooled features are scaled to length 1.
          dropout: rate of dropout of pooled features.
          key: key of the random numbers; None: no dropout.
        """
        x = pooled if self.pool is None else self.pool(tokens)
        if normalize:
            norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
            x = x / jnp.maximum(norm, _SMALLEST_NORM)
        if dropout and key is not None:
            x = x * jax.random.bernoulli(key, 1 - dropout, x.shape) / (1 - dropout)
        return self.classes(x)
