"""Checks parity with the authors' numbers, and the fused attention kernel against the formula.

    python -m benchmarks.accelerator.goldens --folder=FOLDER [--rehearse]

FOLDER has golden cases (docs/parity.md). All computations are in float32 with float32 products,
except attention, whose kernel uses bfloat16: its error and that of the formula in bfloat16 are
relative to the formula in float32.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import attention as attention_benchmark
from benchmarks.accelerator import reporting
from data_pipelines.command_parser import command_parser
from xkd_jax.networks import attention
from xkd_jax.parity.golden_file import GoldenFile
from xkd_jax.parity.kinds import kind_of

# Tokens, heads and head size of base: decoders, visible tokens of a masked view, a local view.
SHAPES = ((393, 12, 32), (393, 12, 64), (113, 12, 64), (561, 12, 32), (73, 12, 64), (141, 12, 64))


def compare_file(path: Path) -> None:
    """Reports each group of a golden case."""
    since = time.perf_counter()
    file = GoldenFile.read(str(path))
    compared = kind_of(file).compare(file)
    for row in compared.comparisons:
        reporting.report(
            "golden", file=path.name, group=row.group, error=float(f"{row.error:.3g}"),
            allowed=row.allowed, compared=row.count, place=row.place, passed=bool(row.passed),
        )  # fmt: skip
    taken = round(time.perf_counter() - since, 1)
    reporting.report("golden file", file=path.name, title=compared.title, seconds=taken)


def compare_attention(kernel: attention.Kernel, batch: int, shape: tuple[int, int, int]) -> None:
    """Reports a record of `benchmarks.attention`."""
    reporting.report("attention", **attention_benchmark.compare(kernel, batch, *shape))


def main() -> None:
    """Compares all cases, then attention."""
    parser = command_parser("benchmarks.accelerator.goldens", __doc__)
    parser.add_argument("--folder", required=True, help="folder of golden cases")
    parser.add_argument("--rehearse", action="store_true", help="few small shapes")
    parser.add_argument("--wait", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    reporting.wait_for_start(args.wait)
    kernel = attention.choose("auto", jax.devices()[0], jnp.bfloat16, 64).kernel
    paths = sorted(path for path in Path(args.folder).iterdir() if path.suffix in (".npz", ".json"))
    batch, shapes = (1, SHAPES[-1:]) if args.rehearse else (64, SHAPES)
    for path in paths:
        reporting.attempt("golden", functools.partial(compare_file, path))
    for shape in shapes:
        compare = functools.partial(compare_attention, kernel, batch, shape)
        reporting.attempt("attention", compare)
    if kernel == "cudnn":
        reporting.attempt(
            "attention",
            lambda: reporting.report("attention", **attention_benchmark.added_token(batch, 393)),
        )


if __name__ == "__main__":
    main()
