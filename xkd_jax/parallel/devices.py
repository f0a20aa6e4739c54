"""Facts of devices, which are `jax.Device`s or `jax.sharding.AbstractDevice`s."""

from __future__ import annotations

from typing import Any

# MiB of vector memory of a TPU, by `device_kind` (v5p, v5e, v6e, 7x), and of older ones.
_VECTOR_MEMORY = {"TPU v5": 64, "TPU v5 lite": 128, "TPU v6 lite": 128, "TPU7x": 64}
_OLDER = 16


def is_nvidia(device: Any) -> bool:
    """Returns whether a device is an NVIDIA GPU."""
    return device.platform == "gpu" and device.device_kind.startswith(("NVIDIA", "Tesla"))


def vector_memory(device: Any) -> int:
    """Returns the bytes of a TPU's vector memory; 0 for another device."""
    if device.platform != "tpu":
        return 0
    return _VECTOR_MEMORY.get(device.device_kind, _OLDER) * 2**20
