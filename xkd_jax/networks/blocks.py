"""Transformer blocks, stacked along a leading axis and run under `jax.lax.scan`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xkd_jax.config.architecture import Attention, Layers, ModelConfig, RematChoice, Transformer
from xkd_jax.networks.attention import attend
from xkd_jax.networks.gelu import gelu
from xkd_jax.networks.layer_norm import layer_norm
from xkd_jax.networks.linear import linear, through_heads
from xkd_jax.networks.remat import KEPT, checkpointed, chosen
from xkd_jax.parallel.axis_rules import constrain
from xkd_jax.parallel.mesh import traced_device

# Name of a stack's parameters, whose first axis is the layer. Clipping and weight decay treat each
# layer as a tensor.
STACKED = "layers"


class DropPath(NamedTuple):
    """Stochastic depth; the rate of dropped branches rises linearly from 0 to `rate`.

    rate: rate in the last block.
    key: key of the random numbers.
    """

    rate: float
    key: jax.Array

    def scales(self, depth: int, samples: int) -> Float[Array, "depth 2 samples"]:
        """Returns the factors of both branches of each block: 0, or 1 / (1 - rate of the block)."""
        kept = 1 - jnp.linspace(0, self.rate, depth)[:, None, None]
        return jax.random.bernoulli(self.key, kept, (depth, 2, samples)) / kept


class Block(nnx.Module):
    """Pre-norm Transformer block: attention, then an erf-GELU MLP.

    Tokens are [batch, tokens, width] in the compute dtype.
    """

    def __init__(
        self, config: Transformer, *, dtype: DTypeLike, attention: Attention, rngs: nnx.Rngs
    ):
        width, heads = config.width, config.heads
        hidden = config.mlp_width
        self.attention = attention
        self.norm1 = layer_norm(width, dtype, rngs, eps=config.norm_eps)
        self.qkv = linear(
            width,
            (3, heads, width // heads),
            ("embed", None, "heads", None),
            dtype,
            rngs,
            use_bias=config.qkv_bias,
        )
        self.proj = linear((heads, width // heads), width, ("heads", None, "embed"), dtype, rngs)
        self.norm2 = layer_norm(width, dtype, rngs, eps=config.norm_eps)
        self.fc1 = linear(width, hidden, ("embed", "mlp"), dtype, rngs)
        self.fc2 = linear(hidden, width, ("mlp", "embed"), dtype, rngs)

    def __call__(
        self,
        x: Float[Array, "batch n width"],
        scales: Float[Array, "2 batch"] | None = None,
        segments: tuple[int, ...] = (),
    ) -> Float[Array, "batch n width"]:
        """Runs the block.

        Args:
          x: tokens.
          scales: factors of both branches (`DropPath.scales`).
          segments: see `attend`.
        """
        x = _in_rows(constrain(x, "batch", None, None))
        qkv = through_heads(self.qkv, self.norm1(x), "batch", None, None, "heads", None)
        attended = attend(qkv, self.attention, segments)
        branch = through_heads(self.proj, attended, "batch", None, None)
        x = checkpoint_name(constrain(x + _scaled(branch, scales, 0), "batch", None, None), KEPT)
        hidden = checkpoint_name(constrain(self.fc1(self.norm2(x)), "batch", None, "mlp"), KEPT)
        return constrain(x + _scaled(self.fc2(gelu(hidden)), scales, 1), "batch", None, None)

    def cls_attention(self, x: Float[Array, "batch n width"]) -> Float[Array, "batch heads m"]:
        """Returns the attention of the CLS query to the m = n - 1 patch tokens, in float32.

        Args:
          x: input of the block, CLS first; the softmax is over all n tokens.
        """
        normed = self.norm1(x)
        kernel = jnp.asarray(self.qkv.kernel[...], normed.dtype)
        q = jnp.einsum("bd,dhc->bhc", normed[:, 0], kernel[:, 0])
        k = jnp.einsum("bnd,dhc->bnhc", normed, kernel[:, 1])
        if self.qkv.bias is not None:
            # the keys' bias adds a constant to all scores of a query, which does not change the
            # softmax
            q = q + jnp.asarray(self.qkv.bias[...], q.dtype)[None, 0]
        scores = jnp.einsum("bhc,bnhc->bhn", q, k, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)[:, :, 1:]


def _in_rows(x: jax.Array) -> jax.Array:
    """Returns x, with each token's values contiguous in memory, as matrix products and norms need.

    XLA for GPUs would keep the layout of an operation before or after the blocks, and transpose all
    of their activations.
    """
    if traced_device().platform != "gpu":
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _scaled(branch: jax.Array, scales: jax.Array | None, index: int) -> jax.Array:
    return branch if scales is None else branch * scales[index, :, None, None].astype(branch.dtype)


class Blocks(nnx.Module):
    """`config.depth` blocks whose parameters are stacked along a leading layer axis."""

    def __init__(
        self,
        config: Transformer,
        *,
        dtype: DTypeLike,
        attention: Attention,
        remat: RematChoice,
        layers: Layers = "scan",
        rngs: nnx.Rngs,
    ):
        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: STACKED})
        def create(rngs: nnx.Rngs) -> Block:
            return Block(config, dtype=dtype, attention=attention, rngs=rngs)

        self.depth = config.depth
        self.remat = remat
        self.compiled_as = layers
        self.layers = create(rngs)

    @classmethod
    def of(cls, config: Transformer, model: ModelConfig, rngs: nnx.Rngs) -> Blocks:
        """Creates a stack with the computational settings of a model's config."""
        return cls(
            config,
            dtype=jnp.dtype(model.compute_dtype),
            attention=model.attention,
            remat=model.remat,
            layers=model.layers,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "batch n width"],
        drop_path: DropPath | None = None,
        *,
        segments: tuple[int, ...] = (),
    ) -> Float[Array, "batch n width"]:
        """Runs all blocks.

        Args:
          x: tokens.
          drop_path: stochastic depth; None: off.
          segments: see `attend`.
        """
        return self._scan(x, drop_path, segments)[0]

    def with_cls_attention(
        self, x: Float[Array, "batch n width"]
    ) -> tuple[Float[Array, "batch n width"], Float[Array, "batch heads m"]]:
        """Runs all blocks, and also returns the last one's CLS attention.

        The scan returns the input of the last block, from which one row of its attention is
        computed again.
        """
        x, last_input = self._scan(x)
        graph, params = nnx.split(self.layers)
        last = nnx.merge(graph, jax.tree.map(lambda p: p[-1], params))
        return x, last.cls_attention(last_input)

    def _scan(
        self,
        x: jax.Array,
        drop_path: DropPath | None = None,
        segments: tuple[int, ...] = (),
    ) -> tuple[jax.Array, jax.Array]:
        graph, params = nnx.split(self.layers)
        scales = None if drop_path is None else drop_path.scales(self.depth, len(x))

        def body(
            carry: tuple[jax.Array, jax.Array], layer: tuple[nnx.State, jax.Array | None]
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            (inputs, _), (params, scales) = carry, layer
            if one_by_one:
                params = jax.tree.map(lambda p: p if p.dtype == x.dtype else unmoved(p), params)
            return (nnx.merge(graph, params)(inputs, scales, segments), inputs), None

        device = traced_device()
        unrolled = unrolls(self.compiled_as, device)
        # XLA for TPUs would convert the weights of all unrolled blocks before the first one.
        one_by_one = unrolled and device.platform == "tpu"
        if not unrolled:
            params = matrices_as(x.dtype, params)
        body = checkpointed(body, chosen(self.remat, device), looped=not unrolled)
        (x, last_input), _ = jax.lax.scan(body, (x, x), (params, scales), unroll=unrolled)
        return x, last_input


def matrices_as(dtype: DTypeLike, params: Any) -> Any:
    """Returns the parameters of a stack with its matrices in the dtype of their products.

    A loop over blocks then stacks the gradients of matrices in this dtype too. If each block
    converted its own matrices, gradients would be stacked in float32, with twice the memory and
    memory traffic.

    Args:
      dtype: of the tokens.
      params: float32; matrices have two or more axes in one layer.
    """
    return jax.tree.map(lambda p: p.astype(dtype) if p.ndim > 2 else p, params)


@jax.custom_vjp
def unmoved(x: jax.Array) -> jax.Array:
    """Returns `x`; what is computed from it is not moved to the array that it is a slice of.

    Without it, XLA for TPUs converts a whole stack of weights and slices the result: the base step
    takes 90 in place of 86 ms on a v5e by the compiler's estimate, and compiles in 16 core minutes
    in place of 11. Gradients pass without a barrier, and are stacked in the products' dtype.
    """
    return jax.lax.optimization_barrier(x)


unmoved.defvjp(lambda x: (unmoved(x), None), lambda _, gradient: (gradient,))


def unrolls(layers: Layers, device: Any) -> bool:
    """Returns whether a stack is compiled block after block.

    A loop over blocks copies their activations into one array and out again, and the collectives of
    one block do not overlap with the next. This takes a quarter of the base step's time on an H100,
    and a sixth on TPUs by the compiler's estimate (docs/performance.md).

    Args:
      layers: `ModelConfig.layers`.
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
    """
    if layers != "auto":
        return layers == "unroll"
    return device.platform in ("gpu", "tpu")
