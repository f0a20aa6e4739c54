"""Constants of TPU chips and GPUs in a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from xkd_jax.planning.hlo_text.arrays import Platform

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A device of one generation.

    platform: the compiler's.
    hbm: memory for programs, in GiB.
    flops: peak bfloat16 operations per second.
    bandwidth: memory bandwidth, in bytes per second.
    link: bandwidth of one link to other chips in one direction, in bytes per second.
    network: bandwidth of a chip's part of the network between hosts or slices in one direction, in
      bytes per second; 0 if unknown.
    per_host: chips of one host, in a run with several hosts.
    host_cores: virtual CPU cores of such a host.
    clock: cycles per second of the compiler's estimates; None if it makes none.
    passes: {precision of a float32 product: time relative to bfloat16}.
    """

    platform: Platform
    hbm: float
    flops: float
    bandwidth: float
    link: float
    network: float
    per_host: int
    host_cores: int
    clock: float | None
    passes: Mapping[str, float]
