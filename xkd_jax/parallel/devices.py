"""Facts of devices, which are `jax.Device`s or `jax.sharding.AbstractDevice`s."""

from __future__ import annotations

from typing import Any

# MiB of vector memory of a TPU, by `device_kind` (v5p, v5e, v6e, 7x); older ones have 16.
_VECTOR_MEMORY = {"TPU v5": 64, "TPU v5 lite": 128, "TPU v6 lite": 128, "TPU7x": 64}


def is_nvidia(device: Any) -> bool:
    """Returns whether a device is an NVIDIA GPU."""
    return device.platform == "gpu" and device.device_kind.startswith(("NVIDIA", "Tesla"))


def vector_memory(device: Any) -> int:
    """Returns the bytes of a TPU's vector memory; 0 if they are few or unknown, or for no TPU."""
    return _VECTOR_MEMORY.get(device.device_kind, 0) * 2**20 if device.platform == "tpu" else 0
