"""XLA's options for the training step."""

from __future__ import annotations

from typing import Any

from xkd_jax.parallel.devices import is_nvidia


def compiler_options(device: Any) -> dict[str, bool | str]:
    """Returns the options for a device.

    On NVIDIA GPUs, matrix products are those of cuBLAS, chosen by its rules. By default XLA times
    several kernels for each product on the device, and takes the fastest. That multiplies the time
    of compilation, and the choice, and with it the rounding, can differ at the next start of a run.
    It can't be repeated without a GPU either, so a plan would be of another program.

    Args:
      device: one of the run's devices, or a description.
    """
    if not is_nvidia(device):
        return {}
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": "0"}
