"""TPU slices: constants of their chips, and their devices for compilation without hardware.

Sources: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" for memory, peaks, ports
and chips of a host; a link's bandwidth in one direction is a chip's documented bidirectional
bandwidth / (2 * ports) (v4: Jouppi et al., "TPU v4", ISCA 2023, table 4). Memory for programs is
the limit in the compiler's out-of-memory errors (libtpu 0.0.50).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from data_pipelines.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The chip of one generation.

    hbm: memory for programs, in GiB.
    flops: peak bfloat16 operations per second.
    bandwidth: memory bandwidth, in bytes per second.
    link: bandwidth of one inter-chip link in one direction, in bytes per second.
    ring: torus dimensions whose size is a multiple of this are rings.
    dimensions: number of torus dimensions.
    per_host: chips of one host, in a slice with several hosts.
    host_cores: virtual CPU cores of such a host.
    cloud_name: of accelerator types at Google Cloud, and what a chip counts in them.
    topology_options: options of the compiler's topology with which a chip is one device.
    """

    hbm: float
    flops: float
    bandwidth: float
    link: float
    ring: int
    dimensions: int
    per_host: int
    host_cores: int
    cloud_name: tuple[str, int]
    topology_options: dict[str, Any] = dataclasses.field(default_factory=dict)


CHIPS: dict[str, Chip] = {
    "v4": Chip(
        hbm=30.75, flops=275e12, bandwidth=1200e9, link=50e9, ring=4, dimensions=3,
        per_host=4, host_cores=240, cloud_name=("v4", 2),
        topology_options={"chip_config_name": "megacore"},
    ),
    "v5e": Chip(
        hbm=15.75, flops=197e12, bandwidth=819e9, link=50e9, ring=16, dimensions=2,
        per_host=4, host_cores=112, cloud_name=("v5litepod", 1),
    ),
    "v5p": Chip(
        hbm=95.73, flops=459e12, bandwidth=2765e9, link=100e9, ring=4, dimensions=3,
        per_host=4, host_cores=208, cloud_name=("v5p", 2),
    ),
    "v6e": Chip(
        hbm=31.24, flops=918e12, bandwidth=1600e9, link=100e9, ring=16, dimensions=2,
        per_host=4, host_cores=180, cloud_name=("v6e", 1),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice: its generation and shape, for example v5e and (16, 16)."""

    generation: str
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Parses GENERATION:AxB or GENERATION:AxBxC.

        Raises:
          UserError: the generation is unknown, or the shape has another number of dimensions.
        """
        generation, _, shape = text.partition(":")
        if generation not in CHIPS:
            raise UserError(
                f"--plan={text} names no known TPU: give one of {', '.join(CHIPS)} and a shape, for"
                " example v5e:16x16."
            )
        dimensions = CHIPS[generation].dimensions
        if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (dimensions - 1), shape):
            example = "x".join(["4"] * dimensions)
            raise UserError(
                f"--plan={text} has no shape, and {generation} has {dimensions} dimensions: give"
                f" one, for example {generation}:{example}."
            )
        return cls(generation, tuple(int(n) for n in shape.split("x")))

    def __str__(self) -> str:
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def accelerator_type(self) -> str:
        """The name that Google Cloud gives it, which counts chips, or cores in v4 and v5p."""
        name, number = self.chip.cloud_name
        return f"{name}-{number * self.chips}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        return math.ceil(self.chips / self.chip.per_host)

    def is_ring(self, dimension: int) -> bool:
        """Whether a dimension of the torus is a ring."""
        return self.shape[dimension] % self.chip.ring == 0

    def devices(self) -> list[Any]:
        """Returns descriptions of the slice's devices, for compilation without hardware.

        Raises:
          UserError: the compiler is not installed, or does not support this shape.
        """
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "A plan needs the TPU compiler, libtpu, which is not installed: pip install -e"
                " '.[plan]' (Linux, x86-64)."
            )
        with quiet_environment():
            import jax
            from jax.experimental import topologies

            try:
                topology = topologies.get_topology_desc(
                    platform="tpu", topology_name=str(self), **self.chip.topology_options
                )
            except jax.errors.JaxRuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"--plan={self} is not supported by the compiler ({reason}): give a shape that"
                    " Cloud TPU offers."
                ) from None
        return list(topology.devices)


# Without these, libtpu searches for a TPU and prints to stderr that there is none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@contextlib.contextmanager
def quiet_environment() -> Iterator[None]:
    """Keeps libtpu from looking for the machine it runs on, while it only compiles."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
