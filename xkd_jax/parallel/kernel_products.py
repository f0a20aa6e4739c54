"""Matrix products inside of Pallas kernels for TPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Contracted = tuple[tuple[int, ...], tuple[int, ...]]

# Contracted axes of the two matrices.
ROWS_BY_COLUMNS: Contracted = ((1,), (0,))
ROWS_BY_ROWS: Contracted = ((1,), (1,))
COLUMNS_BY_COLUMNS: Contracted = ((0,), (0,))


def product(a: jax.Array, b: jax.Array, contracted: Contracted) -> jax.Array:
    """Returns a product in float32, with the highest precision for float32 operands.

    Args:
      a: a matrix.
      b: another one, of the same dtype.
      contracted: one of this module's constants.
    """
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
