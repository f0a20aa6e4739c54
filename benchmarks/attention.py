"""Compares fused attention kernels with XLA's formula: error relative to float32, and time.

    python -m benchmarks.attention [--kernel=cudnn] [--batch=64]

Prints JSON with one record per length and head size. The exit status is 1 if the error of a
kernel's values or gradients is more than `TOLERANCE` times that of XLA's formula in the same dtype.
The default kernel is that of `model.attention=auto` for bfloat16 on this machine.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from xkd_jax.networks import attention

# Tokens of `configs/k400.py`: decoders and teachers, local views, visible tokens of masked views.
# The even length has no padding.
LENGTHS = (393, 561, 113, 141, 73, 394)
# (heads, size) of the encoders and decoders of base, of the encoder of huge, and wide heads.
ALL_LENGTHS = ((12, 64), (12, 32))
ONE_LENGTH = ((16, 80), (8, 128))

TOLERANCE = 1.5
ROUNDS = 20

Function = Callable[[jax.Array], jax.Array]


def main() -> None:
    """Runs the benchmark."""
    parser = command_parser("benchmarks.attention", __doc__)
    parser.add_argument("--kernel", choices=sorted(attention.KERNELS))
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    chosen = attention.choose("auto", jax.devices()[0], jnp.bfloat16, 64).kernel
    records = compare_all(args.kernel or chosen, args.batch)
    terminal.print_result(json.dumps(records, indent=2))
    sys.exit(0 if all(record["within_tolerance"] for record in records) else 1)


def compare_all(kernel: attention.Kernel, batch: int) -> list[dict[str, Any]]:
    """Returns the records of all lengths and head sizes, with a check of cuDNN's added token."""
    shapes = [(n, *heads) for n in LENGTHS for heads in ALL_LENGTHS]
    shapes += [(LENGTHS[0], *heads) for heads in ONE_LENGTH]
    records = [compare(kernel, batch, *shape) for shape in shapes]
    return [*records, added_token(batch, LENGTHS[0])] if kernel == "cudnn" else records


def compare(kernel: attention.Kernel, batch: int, n: int, heads: int, size: int) -> dict[str, Any]:
    """Returns errors relative to the largest value, and seconds of values and gradients."""
    keys = jax.random.split(jax.random.key(n + size))
    qkv = jax.random.normal(keys[0], (batch, n, 3, heads, size), jnp.bfloat16)
    cotangent = jax.random.normal(keys[1], (batch, n, heads, size), jnp.bfloat16)
    with jax.default_matmul_precision("highest"):
        exact = _values_and_gradients(lambda qkv: attention.plain(qkv, (n,)))(
            qkv.astype(jnp.float32), cotangent.astype(jnp.float32)
        )
    record: dict[str, Any] = {
        "kernel": kernel, "batch": batch, "tokens": n, "heads": heads, "size": size,
    }  # fmt: skip
    names: tuple[attention.Kernel, ...] = ("xla", kernel)
    for name in names:
        run = _values_and_gradients(functools.partial(_attended, name))
        results = zip(("value", "gradient"), run(qkv, cotangent), exact, strict=True)
        for what, found, truth in results:
            record[f"{name}_{what}_error"] = _error(found, truth)
        record[f"{name}_ms"] = 1000 * _seconds(run, qkv, cotangent)
    record["within_tolerance"] = all(
        record[f"{kernel}_{what}_error"] <= TOLERANCE * record[f"xla_{what}_error"]
        for what in ("value", "gradient")
    )
    return record


def added_token(batch: int, n: int) -> dict[str, Any]:
    """Returns whether the added token affects other tokens, and the values of its own rows.

    Memory for results may be uninitialized, so it is filled with NaN before.
    """
    key = jax.random.key(n)
    qkv = jax.random.normal(key, (batch, n + 1, 3, 12, 32), jnp.bfloat16)
    run = _values_and_gradients(lambda qkv: attention.cudnn_of_first(qkv, n)[:, :n])
    rows = jax.jit(lambda qkv: attention.cudnn_of_first(qkv, n)[:, n:])
    cotangent = jnp.ones((batch, n, 12, 32), jnp.bfloat16)
    results = []
    for content in (0, 1000):
        full = qkv.at[:, n:].set(content)
        jax.block_until_ready([jnp.full(2**24, jnp.nan) for _ in range(8)])
        value, gradient = run(full, cotangent)
        results.append(
            (value, gradient[:, :n], jnp.abs(gradient[:, n:]).max(), jnp.abs(rows(full)).max())
        )
    (value, gradient, *zeros), (other_value, other_gradient, *others) = results
    same = bool((value == other_value).all() and (gradient == other_gradient).all())
    return {
        "added_token_reaches_no_other": same,
        "largest_gradient_of_added_token": [float(zeros[0]), float(others[0])],
        "largest_value_of_added_token": [float(zeros[1]), float(others[1])],
        "within_tolerance": same,
    }


def _attended(kernel: attention.Kernel, qkv: jax.Array) -> jax.Array:
    return attention.KERNELS[kernel](qkv, qkv.shape[1:2])


def _values_and_gradients(function: Function) -> Callable[..., tuple[jax.Array, jax.Array]]:
    @jax.jit
    def run(qkv: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pull = jax.vjp(function, qkv)
        return value, pull(cotangent)[0]

    return run


def _error(found: jax.Array, truth: jax.Array) -> float:
    difference = jnp.abs(found.astype(jnp.float32) - truth).max() / jnp.abs(truth).max()
    return float(difference)


def _seconds(run: Callable[..., Any], *args: jax.Array) -> float:
    """Returns the seconds of one call, the mean of `ROUNDS` concurrent calls."""
    jax.block_until_ready(run(*args))
    start = time.perf_counter()
    jax.block_until_ready([run(*args) for _ in range(ROUNDS)][-1])
    return (time.perf_counter() - start) / ROUNDS


if __name__ == "__main__":
    main()
