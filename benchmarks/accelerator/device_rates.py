"""Measures peak rates of the device, as references for the step."""

from __future__ import annotations

import statistics

import jax
import jax.numpy as jnp

from benchmarks.accelerator import reporting


def report_rates(size: int) -> float:
    """Reports the rate of a bfloat16 product of square random matrices, and of a copy.

    Args:
      size: rows and columns.

    Returns:
      Operations per second of the product.
    """
    left, right = (
        jax.random.normal(key, (size, size), jnp.bfloat16)
        for key in jax.random.split(jax.random.key(0))
    )
    product = 2 * size**3 / _seconds(jax.jit(jnp.matmul), left, right)
    moved = jnp.ones((size, size, 4), jnp.float32)
    copy = 2 * moved.nbytes / _seconds(jax.jit(jnp.negative), moved)
    reporting.report(
        "device", matmul_size=size, matmul_tflops=round(product / 1e12, 1),
        copy_gb_per_second=round(copy / 1e9, 1), device=jax.devices()[0].device_kind,
    )  # fmt: skip
    return product


def _seconds(function: jax.stages.Wrapped, *args: jax.Array) -> float:
    last: list[jax.Array] = [function(*args)]

    def step() -> None:
        last[0] = function(*args)

    times = reporting.block_times(step, lambda: jax.block_until_ready(last), blocks=5, seconds=0.2)
    return statistics.median(times)
