"""The precision of matrix products."""

from __future__ import annotations

import contextlib
from typing import Any

import jax

from xkd_jax.config.pretraining import ModelConfig


def matmul_precision(model: ModelConfig) -> contextlib.AbstractContextManager[Any]:
    """Float32 products for float32 compute, which TPUs and GPUs round down by default."""
    if model.compute_dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
