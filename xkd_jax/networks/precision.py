"""Precision of matrix products."""

from __future__ import annotations

import contextlib
from typing import Any

import jax

from xkd_jax.config.pretraining import ModelConfig


def matmul_precision(model: ModelConfig) -> contextlib.AbstractContextManager[Any]:
    """Returns a context with full float32 products for compute dtype float32.

    By default, TPUs and GPUs compute them with lower precision.
    """
    if model.compute_dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
