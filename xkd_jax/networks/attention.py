"""Self-attention of a block: the plain formula, and fused kernels for GPUs and TPUs."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import einops
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xkd_jax.config.architecture import Attention, ModelConfig
from xkd_jax.networks.precision import compute_dtype
from xkd_jax.networks.remat import KEPT
from xkd_jax.parallel.axis_rules import axis_size, partition
from xkd_jax.parallel.devices import is_nvidia
from xkd_jax.parallel.mesh import traced_device

Kernel = Literal["xla", "cudnn", "pallas"]

# (query, key and value, segments) -> attended values; see `attend`
Function = Callable[[jax.Array, tuple[int, ...]], jax.Array]

# Logical axes of [batch n 3 heads size] and [batch n heads size].
_QKV = ("batch", None, None, "heads", None)
_ATTENDED = ("batch", None, "heads", None)

# Fused kernels need a head size that is a multiple of the first number and at most the second. On
# GPUs they need at least this compute capability (Ampere).
_MULTIPLE, _LARGEST, _CAPABILITY = 8, 128, (8, 0)


def attend(
    qkv: Float[Array, "batch n 3 heads size"], attention: Attention, segments: tuple[int, ...] = ()
) -> Float[Array, "batch n heads size"]:
    """Returns softmax attention within each segment of each sample, with scale size ** -0.5.

    Args:
      qkv: query, key and value of each token, in the compute dtype.
      attention: `ModelConfig.attention`.
      segments: numbers of consecutive tokens that attend to each other, with sum n; empty: all do.

    Returns:
      An array of the same dtype.
    """
    device = traced_device()
    kernel = choose(attention, device, qkv.dtype, qkv.shape[-1]).kernel
    return KERNELS[kernel](qkv, segments or qkv.shape[1:2])


def plain(
    qkv: Float[Array, "batch n 3 heads size"], segments: tuple[int, ...]
) -> Float[Array, "batch n heads size"]:
    """Returns attention by the plain formula, which stores the scores in memory.

    Args:
      qkv: queries, keys and values.
      segments: numbers of consecutive tokens that attend to each other, with sum n.
    """

    def attended(part: jax.Array) -> jax.Array:
        q, k, v = einops.rearrange(part, "b n qkv h d -> qkv b n h d")
        return jax.nn.dot_product_attention(q, k, v, implementation="xla")

    return checkpoint_name(_by_segment(attended, checkpoint_name(qkv, KEPT), segments), KEPT)


def cudnn(
    qkv: Float[Array, "batch n 3 heads size"], segments: tuple[int, ...]
) -> Float[Array, "batch n heads size"]:
    """Returns attention by cuDNN's fused kernel, which does not store the scores in memory.

    JAX (at least up to 0.12) does not support its gradient for odd lengths, so a token of zeros is
    appended to them. Most lengths here are odd.

    Args:
      qkv: queries, keys and values.
      segments: as for `plain`.
    """

    def attended(part: jax.Array) -> jax.Array:
        n = part.shape[1]
        even = jnp.pad(part, [(0, 0), (0, n % 2), (0, 0), (0, 0), (0, 0)])
        return cudnn_of_first(even, n)[:, :n]

    return _by_segment(attended, qkv, segments)


def cudnn_of_first(
    qkv: Float[Array, "batch m 3 heads size"], n: int
) -> Float[Array, "batch m heads size"]:
    """Returns cuDNN's attention among the first n of m tokens; the other rows are undefined.

    Raises:
      NotImplementedError: in a gradient, if m is odd.
    """
    q, k, v = (
        checkpoint_name(part, KEPT) for part in einops.rearrange(qkv, "b n qkv h d -> qkv b n h d")
    )
    lengths = None if n == qkv.shape[1] else jnp.full(len(qkv), n, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v,
        query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn",
    )  # fmt: skip


def pallas(
    qkv: Float[Array, "batch n 3 heads size"], segments: tuple[int, ...]
) -> Float[Array, "batch n heads size"]:
    """Returns attention by the kernel for TPUs (`tpu_attention`) or for GPUs (`gpu_attention`).

    Args:
      qkv: queries, keys and values.
      segments: as for `plain`.
    """
    if traced_device().platform == "tpu":
        from xkd_jax.networks.tpu_attention import tpu_attention

        return tpu_attention(qkv, segments)
    from xkd_jax.networks.gpu_attention import gpu_attention

    return gpu_attention(qkv, segments)


def _by_segment(
    attended: Callable[[jax.Array], jax.Array], qkv: jax.Array, segments: tuple[int, ...]
) -> jax.Array:
    """Joins the results of each segment."""
    if len(segments) == 1:
        return attended(qkv)
    return jnp.concatenate([attended(part) for part in split_tokens(qkv, segments)], axis=1)


def split_tokens(
    x: Float[Array, "batch n ..."], segments: Sequence[int]
) -> list[Float[Array, "batch _ ..."]]:
    """Splits an array of tokens into segments, by their numbers of tokens."""
    return jnp.split(x, list(itertools.accumulate(segments))[:-1], axis=1)


class Choice(NamedTuple):
    """A kernel, and the reason if it is not the requested one."""

    kernel: Kernel
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kernel} ({self.reason})" if self.reason else self.kernel


def choose(attention: Attention, device: Any, dtype: DTypeLike, size: int) -> Choice:
    """Returns the requested kernel if the device supports it, else XLA's.

    Args:
      attention: `ModelConfig.attention`; `auto` requests the platform's fused kernel.
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
      dtype: dtype of queries, keys and values.
      size: width of a head.
    """
    kernel: Kernel = _platform_kernel(device) if attention == "auto" else attention
    if kernel == "xla":
        return Choice("xla")
    missing = _missing_device(kernel, device)
    if not missing and device.platform == "gpu" and dtype != jnp.bfloat16:
        missing = "bfloat16"
    if not missing and (size % _MULTIPLE or size > _LARGEST):
        missing = f"heads of a multiple of {_MULTIPLE}, at most {_LARGEST}, not {size}"
    return Choice("xla", f"{kernel} needs {missing}") if missing else Choice(kernel)


def describe(model: ModelConfig, device: Any) -> str:
    """Returns the choice for encoders and decoders on a device, as text."""
    dtype = jnp.dtype(compute_dtype(model, device))
    encoders, decoders = (
        choose(model.attention, device, dtype, stack.width // stack.heads)
        for stack in (model.encoder, model.decoder)
    )
    same = encoders == decoders
    return str(encoders) if same else f"{encoders} in encoders, {decoders} in decoders"


def _platform_kernel(device: Any) -> Kernel:
    if is_nvidia(device):
        return "pallas" if has_triton() else "cudnn"
    return "pallas" if device.platform == "tpu" else "xla"


def has_triton() -> bool:
    """Whether this JAX compiles Pallas kernels by Triton; a version after 0.12 will not."""
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def _missing_device(kernel: Kernel, device: Any) -> str:
    """Returns the device that a fused kernel needs; empty if this one suffices."""
    if kernel == "pallas" and device.platform == "tpu":
        return ""
    if not is_nvidia(device):
        return "an NVIDIA GPU" if kernel == "cudnn" else "a TPU or an NVIDIA GPU"
    if kernel == "pallas" and not has_triton():
        return "a JAX with Pallas for Triton, up to 0.12"
    # abstract devices have none
    capability = getattr(device, "compute_capability", None)
    too_old = capability and tuple(int(n) for n in capability.split(".")) < _CAPABILITY
    return "a GPU of compute capability 8.0 or newer" if too_old else ""


def _on_each_shard(kernel: Function) -> Function:
    """Returns the kernel mapped over shards of samples and heads; the compiler can't split it."""

    def sharded(qkv: jax.Array, segments: tuple[int, ...]) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return kernel(qkv, segments)
        _, n, parts, heads, size = qkv.shape
        if axis_size("heads") > 1:
            split = partition(_QKV, qkv.shape, mesh)
            attended = partition(_ATTENDED, (*qkv.shape[:2], heads, size), mesh)
            return jax.shard_map(
                lambda qkv: kernel(qkv, segments),
                in_specs=split, out_specs=attended, check_vma=False,
            )(qkv)  # fmt: skip

        def of_rows(rows: jax.Array) -> jax.Array:
            return kernel(rows.reshape(-1, n, parts, heads, size), segments).reshape(
                *rows.shape[:2], -1
            )

        # In the shape of the products before and after: XLA for TPUs gives arrays at the border of
        # a shard the layout of their shape, and would copy them.
        rows = qkv.reshape(*qkv.shape[:2], -1)
        split = partition(("batch", None, None), rows.shape, mesh)
        out = jax.shard_map(of_rows, in_specs=split, out_specs=split, check_vma=False)(rows)
        return out.reshape(*qkv.shape[:2], heads, size)

    return sharded


KERNELS: dict[Kernel, Function] = {
    "xla": plain,
    "cudnn": _on_each_shard(cudnn),
    "pallas": _on_each_shard(pallas),
}
