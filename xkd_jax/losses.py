"""The losses, as pure float32 functions (spec section 3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from xkd_jax.rules import constrain

# Bandwidths of the kernel of the alignment loss.
MMD_GAMMAS = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
MMD_MIN_SQUARED_DISTANCE = 1e-30


def normalise_patches(patches: jax.Array) -> jax.Array:
    """Normalises each patch [..., values] by its own mean and unbiased variance."""
    patches = patches.astype(jnp.float32)
    mean = patches.mean(-1, keepdims=True)
    variance = patches.var(-1, keepdims=True, ddof=1)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)


def reconstruction(patches: jax.Array, prediction: jax.Array, removed: jax.Array) -> jax.Array:
    """Mean squared error against normalised patches, averaged over the removed tokens.

    Args:
      patches, prediction: [batch, tokens, values].
      removed: [batch, tokens], 1 where the encoder did not see the token.
    """
    error = jnp.square(prediction.astype(jnp.float32) - normalise_patches(patches)).mean(-1)
    return (error * removed).sum() / removed.sum()


def distillation(
    student: jax.Array, teacher_probabilities: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """Cross entropy of the student's views under the teacher, mean over views and batch.

    Args:
      student: head outputs [views, batch, outputs].
      teacher_probabilities: `teacher_softmax` [batch, outputs].
      temperature: of the student's softmax.
    """
    log_p = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    return -(teacher_probabilities * log_p).sum(-1).mean()


def teacher_softmax(
    teacher: jax.Array, centre: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """Centred and sharpened teacher distribution [batch, outputs], without gradient."""
    logits = (teacher.astype(jnp.float32) - centre) / temperature
    return jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))


def update_centre(centre: jax.Array, teacher: jax.Array, momentum: float) -> jax.Array:
    """Moves the centre [outputs] towards the mean of `teacher` over the global batch."""
    return momentum * centre + (1 - momentum) * teacher.astype(jnp.float32).mean(0)


def squared_mmd(x: jax.Array, y: jax.Array) -> jax.Array:
    """Squared maximum mean discrepancy of two samples under a sum of Gaussian kernels.

    Distances here are differences of squared norms near the number of outputs, so the common
    mean is taken out first, products are in full float32, and a sample's distance to itself is
    exactly 0 (the narrowest kernel sees even its rounding).

    Args:
      x, y: [n, outputs] and [m, outputs].
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    mean = jax.lax.stop_gradient((x.mean(0) + y.mean(0)) / 2)
    x, y = x - mean, y - mean
    return _mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y)


def _mean_kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean of the kernel over all pairs of a row of `x` and a row of `y`.

    Each side's gradient is taken with the other side held fixed. On a mesh a device then needs its
    own rows against all rows, and never sends the gradient of rows that are not its own.
    """
    value = _mean_kernel_of_rows(x, y)
    mirrored = value if x is y else _mean_kernel_of_rows(y, x)
    return value + (mirrored - jax.lax.stop_gradient(mirrored))


def _mean_kernel_of_rows(x: jax.Array, others: jax.Array) -> jax.Array:
    """As `_mean_kernel`, with a gradient in `x` alone."""
    same = others is x
    x = constrain(x, "batch", "outputs")
    others = constrain(jax.lax.stop_gradient(others), None, "outputs")
    products = jnp.matmul(x, others.T, precision=jax.lax.Precision.HIGHEST)
    distances = jnp.square(x).sum(-1)[:, None] + jnp.square(others).sum(-1)[None] - 2 * products
    if same:
        distances = jnp.where(jnp.eye(len(x), dtype=bool), 0.0, distances)
    distances = jnp.maximum(distances, MMD_MIN_SQUARED_DISTANCE)
    return jnp.stack([jnp.exp(-gamma * distances).mean() for gamma in MMD_GAMMAS]).sum()
