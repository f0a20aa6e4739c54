"""LayerNorm with a memory-saving gradient."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xkd_jax.networks.remat import KEPT

# PyTorch's default, which the authors use for every LayerNorm.
LAYER_NORM_EPS = 1e-5


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm` over the last axis, computed by `normalize`."""

    def __call__(
        self, x: Float[Array, "*rows width"], *, mask: jax.Array | None = None
    ) -> Float[Array, "*rows width"]:
        """Normalizes the last axis, in the module's dtype; a mask is not supported."""
        assert mask is None
        assert self.scale is not None
        assert self.bias is not None
        x = x.astype(self.dtype or x.dtype)
        return normalize(x, self.scale[...], self.bias[...], self.epsilon)


def layer_norm(
    width: int, dtype: DTypeLike, rngs: nnx.Rngs, *, eps: float = LAYER_NORM_EPS, **kwargs: Any
) -> LayerNorm:
    """Returns a `LayerNorm` with logical axes.

    Args:
      width: length of the last axis.
      dtype: compute dtype; parameters are float32.
      rngs: source of the initial values.
      eps: added to the variance.
      **kwargs: other arguments of `nnx.LayerNorm`.
    """
    return LayerNorm(
        width,
        epsilon=eps,
        dtype=dtype,
        scale_metadata={"out_sharding": ("norm",)},
        bias_metadata={"out_sharding": ("norm",)},
        rngs=rngs,
        **kwargs,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "*rows width"],
    scale: Float[Array, " width"],
    bias: Float[Array, " width"],
    eps: float = LAYER_NORM_EPS,
) -> Float[Array, "*rows width"]:
    """Normalizes the last axis to mean 0 and variance 1, times `scale`, plus `bias`.

    Statistics are float32; the result has the dtype of x. The variance is the mean square of the
    centered values. For narrower dtypes than float32 it is the mean square minus the squared mean,
    which needs one pass over x; its error is smaller than that of rounding x. For the gradient, x
    and two float32 values per row are saved; automatic differentiation would save three float32
    arrays of x's size.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = checkpoint_name(wide.mean(-1, keepdims=True), KEPT)
    centered = wide - mean
    if x.dtype == jnp.float32:
        variance = jnp.square(centered).mean(-1, keepdims=True)
    else:
        square = jnp.square(wide).mean(-1, keepdims=True)
        variance = jnp.maximum(square - jnp.square(mean), 0)
    inverse = checkpoint_name(jax.lax.rsqrt(variance + eps), KEPT)
    out = centered * (inverse * _row(scale, x.ndim)) + _row(bias, x.ndim)
    return out.astype(x.dtype), (x, mean, inverse, scale)


def _backward(
    eps: float, kept: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = kept
    cotangent = cotangent.astype(jnp.float32)
    normed = (x.astype(jnp.float32) - mean) * inverse
    inner = cotangent * _row(scale, x.ndim)
    along = (inner * normed).mean(-1, keepdims=True)
    gradient = inverse * (inner - inner.mean(-1, keepdims=True) - normed * along)
    rows = tuple(range(x.ndim - 1))
    return gradient.astype(x.dtype), (cotangent * normed).sum(rows), cotangent.sum(rows)


def _row(vector: jax.Array, ndim: int) -> jax.Array:
    """Reshapes a vector to broadcast along the last of `ndim` axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


normalize.defvjp(_forward, _backward)
