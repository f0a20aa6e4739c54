"""The losses, as pure float32 functions (docs/method.md has their equations)."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from data_pipelines.errors import UserError
from xkd_jax.parallel.axis_rules import axis_size, constrain
from xkd_jax.parallel.row_sums import row_sums

# (samples [n, outputs], samples [m, outputs]) -> distance of their distributions, float32 scalar
Alignment = Callable[[jax.Array, jax.Array], jax.Array]

# Bandwidths of the kernel of the alignment loss.
MMD_GAMMAS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
MMD_MIN_SQUARED_DISTANCE = 1e-30


def normalize_patches(
    patches: Float[Array, "*rows values"],
) -> Float[Array, "*rows values"]:
    """Normalizes each patch by its own mean and unbiased variance."""
    mean, deviation = patch_statistics(patches)
    return (patches.astype(jnp.float32) - mean) / deviation


def patch_statistics(
    patches: Float[Array, "*rows values"],
) -> tuple[Float[Array, "*rows 1"], Float[Array, "*rows 1"]]:
    """Mean and unbiased standard deviation of each patch, float32; 1e-3 for a constant patch."""
    patches, n = patches.astype(jnp.float32), patches.shape[-1]
    mean = row_sums(lambda x: x, patches) / n
    variance = row_sums(lambda x: jnp.square(x - mean), patches) / (n - 1)
    return mean, jnp.sqrt(variance + 1e-6)


def reconstruction(
    patches: Float[Array, "batch tokens values"],
    prediction: Float[Array, "batch tokens values"],
    removed: Float[Array, "batch tokens"],
) -> Float[Array, ""]:
    """Mean squared error against normalized patches, averaged over the removed tokens.

    Args:
      patches: of the global view.
      prediction: of the decoder.
      removed: 1 for masked tokens, 0 for the others.
    """
    error = jnp.square(prediction.astype(jnp.float32) - normalize_patches(patches)).mean(-1)
    return (error * removed).sum() / removed.sum()


def teacher_softmax(
    teacher: Float[Array, "batch outputs"],
    center: Float[Array, " outputs"],
    temperature: float | Float[Array, ""],
) -> Float[Array, "batch outputs"]:
    """Returns softmax((teacher - center) / temperature), without gradient.

    Args:
      teacher: outputs of the head.
      center: moving mean of the outputs.
      temperature: temperature of the softmax.
    """
    logits = (teacher.astype(jnp.float32) - center[None]) / temperature
    return jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))


def distillation(
    student: Float[Array, "views batch outputs"],
    targets: Float[Array, "batch outputs"],
    temperature: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Cross entropy of the student's views under the teacher, averaged over views and batch.

    Args:
      student: outputs of the head.
      targets: the teacher's distribution (`teacher_softmax`).
      temperature: of the student's softmax.
    """
    log_p = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    return -(targets[None] * log_p).sum(-1).mean()


def next_center(
    center: Float[Array, " outputs"], teacher: Float[Array, "batch outputs"], momentum: float
) -> Float[Array, " outputs"]:
    """Returns momentum * center + (1 - momentum) * (mean of `teacher` over the global batch)."""
    return momentum * center + (1 - momentum) * teacher.astype(jnp.float32).mean(0)


def squared_mmd(x: Float[Array, "n outputs"], y: Float[Array, "m outputs"]) -> Float[Array, ""]:
    """Squared maximum mean discrepancy of samples `x` and `y` under a sum of Gaussian kernels.

    Distances are computed as differences of squared norms, which are near the number of outputs.
    For accuracy, the common mean is subtracted first, products are in full float32, and the
    distance of a row to itself is set to 0 (the narrowest kernel is sensitive to its rounding
    error).
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    mean = jax.lax.stop_gradient((x.mean(0, keepdims=True) + y.mean(0, keepdims=True)) / 2)
    x, y = x - mean, y - mean
    return _mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)


def mean_over_pairs(
    align: Alignment, samples: Sequence[Float[Array, "_ outputs"]]
) -> Float[Array, ""]:
    """Returns the mean of an alignment loss over all pairs of two or more samples."""
    pairs = [align(x, y) for x, y in itertools.combinations(samples, 2)]
    return functools.reduce(operator.add, pairs) / len(pairs)


# Choices of `loss.alignment`.
ALIGNMENTS: dict[str, Alignment] = {"mmd": squared_mmd}


def alignment(name: str) -> Alignment:
    """Returns the alignment loss with a name of `ALIGNMENTS`.

    Raises:
      UserError: `ALIGNMENTS` has no such name.
    """
    if name not in ALIGNMENTS:
        raise UserError(f"loss.alignment is {name!r}: give one of {', '.join(ALIGNMENTS)}.")
    return ALIGNMENTS[name]


def _mean_kernel(x: Float[Array, "n outputs"], y: Float[Array, "m outputs"]) -> Float[Array, ""]:
    """Mean of the kernel over all pairs of a row of `x` and a row of `y`.

    Its gradient is computed as the sum of two gradients, each with the other argument constant. On
    a mesh, no gradients are then sent along the axis `data`.
    """
    value = _mean_kernel_of_rows(x, y)
    mirrored = value if x is y else _mean_kernel_of_rows(y, x)
    return value + (mirrored - jax.lax.stop_gradient(mirrored))


def _mean_kernel_of_rows(
    x: Float[Array, "n outputs"], others: Float[Array, "m outputs"]
) -> Float[Array, ""]:
    """`_mean_kernel` with a gradient with respect to `x` only.

    On a mesh, `data` divides the rows of the matrix of pairs, and `fsdp` its columns: each device
    receives only the rows of `x` and `others` whose pairs it computes.
    """
    same = others is x
    x, others = _on_grid(x), _on_grid(jax.lax.stop_gradient(others))
    products = jnp.tensordot(
        constrain(x, "pair_rows", None, None, "outputs"),
        constrain(others, None, "pair_columns", None, "outputs"),
        axes=(-1, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    rows, columns = jnp.square(x).sum(-1), jnp.square(others).sum(-1)
    distances = rows[..., None, None, None] + columns[None, None, None] - 2 * products
    if same:
        itself = jnp.eye(rows.size, dtype=bool).reshape(distances.shape)
        distances = jnp.where(itself, 0.0, distances)
    distances = jnp.maximum(distances, MMD_MIN_SQUARED_DISTANCE)
    return jnp.stack([jnp.exp(-gamma * distances).mean() for gamma in MMD_GAMMAS]).sum()


def _on_grid(x: Float[Array, "n outputs"]) -> Float[Array, "data fsdp rows outputs"]:
    """Returns rows by the devices that have them; as of one device if they are not divisible."""
    data, fsdp = axis_size("pair_rows"), axis_size("pair_columns")
    if len(x) % (data * fsdp):
        data = fsdp = 1
    x = x.reshape(data, fsdp, -1, x.shape[-1])
    return constrain(x, "pair_rows", "pair_columns", None, "outputs")
