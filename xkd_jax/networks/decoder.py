"""The decoder of a masked autoencoder."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer

from data_pipelines.loader_config import ViewConfig
from xkd_jax.config.architecture import ModelConfig
from xkd_jax.networks.blocks import Blocks
from xkd_jax.networks.encoder import embedding_init
from xkd_jax.networks.linear import affine, linear
from xkd_jax.networks.patches import colors_first, permute_tokens


class Decoder(nnx.Module):
    """Inserts mask tokens for removed patches and predicts every patch.

    As in the released code, there is no LayerNorm before the output projection, and no projection
    between equal sizes.
    """

    def __init__(self, model: ModelConfig, view: ViewConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(model.compute_dtype)
        width = model.decoder.width
        self.dtype = dtype
        self.view = view
        self.embed = (
            linear(model.encoder.width, width, ("embed", "mlp"), dtype, rngs)
            if model.encoder.width != width
            else None
        )
        init = embedding_init()
        self.mask_token = nnx.Param(init(rngs.params(), (1, width)), out_sharding=(None, "embed"))
        self.positions = nnx.Param(
            init(rngs.params(), (1 + view.tokens, width)), out_sharding=(None, "embed")
        )
        self.blocks = Blocks.of(model.decoder, model, rngs)
        self.output = (
            linear(width, view.patch_values, ("embed", "patch"), dtype, rngs)
            if width != view.patch_values
            else None
        )

    def __call__(
        self, latent: Float[Array, "batch kept width"], restore: Integer[Array, "batch tokens"]
    ) -> Float[Array, "batch tokens values"]:
        """Predicts every patch from the tokens of the encoder.

        Args:
          latent: CLS and the kept tokens.
          restore: `Masking.restore`.
        """
        x = latent if self.embed is None else self.embed(latent)
        batch, tokens = restore.shape
        removed = (batch, 1 + tokens - x.shape[1], x.shape[2])
        masks = jnp.broadcast_to(self.mask_token[...].astype(x.dtype)[None], removed)
        unshuffled = permute_tokens(jnp.concatenate([x[:, 1:], masks], axis=1), restore)
        x = jnp.concatenate([x[:, :1], unshuffled], axis=1)
        x = self.blocks(x + self.positions[...].astype(x.dtype)[None])[:, 1:]
        if self.output is None:
            return colors_first(x, self.view.patch)
        assert self.output.bias is not None
        kernel = colors_first(self.output.kernel[...], self.view.patch)
        bias = colors_first(self.output.bias[...], self.view.patch)
        return affine(x, kernel, bias)
