"""Precision of activations and matrix products."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax

from xkd_jax.config.architecture import Architecture, ComputeDtype, ModelConfig
from xkd_jax.parallel.mesh import traced_device


def compute_dtype(model: ModelConfig, device: Any) -> ComputeDtype:
    """Returns the dtype of activations on a device.

    `auto` is float32 on CPUs, whose products of bfloat16 are slower, and bfloat16 elsewhere.

    Args:
      model: the networks' config.
      device: a `jax.Device` or `jax.sharding.AbstractDevice`.
    """
    if model.compute_dtype != "auto":
        return model.compute_dtype
    return "float32" if device.platform == "cpu" else "bfloat16"


def resolved(architecture: Architecture) -> Architecture:
    """Returns the architecture with the dtype of activations on the traced device."""
    return dataclasses.replace(architecture, model=resolved_model(architecture.model))


def resolved_model(model: ModelConfig) -> ModelConfig:
    """Returns a model's config with the dtype of activations on the traced device."""
    if model.compute_dtype != "auto":
        return model
    return dataclasses.replace(model, compute_dtype=compute_dtype(model, traced_device()))


def matmul_precision(model: ModelConfig) -> contextlib.AbstractContextManager[Any]:
    """Returns a context with full float32 products for compute dtype float32.

    By default, TPUs and GPUs compute them with lower precision.
    """
    if compute_dtype(model, traced_device()) == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
