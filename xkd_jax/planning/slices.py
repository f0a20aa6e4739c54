"""TPU slices: constants of their chips, and their devices for compilation without hardware.

Sources: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" for memory, peaks, ports,
chips of a host and the bandwidth of the data center network; a link's bandwidth in one direction is
a chip's documented bidirectional bandwidth / (2 * ports) (v4: Jouppi et al., "TPU v4", ISCA 2023,
table 4). The network of v5p is that of "How to scale your model" (Google DeepMind 2025), chapter 2.
Memory for programs is the limit in the compiler's out-of-memory errors (libtpu 0.0.50). The clock
is the peak / operations of the matrix units in a cycle: 4 units of 128 x 128 (v5e), 8 (v4, v5p), 4
of 256 x 256 (v6e, where the compiler's cycles for large products leave no other number).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from data_pipelines.errors import UserError
from xkd_jax.planning import listings
from xkd_jax.planning.between_hosts import seconds_between
from xkd_jax.planning.chips import Chip
from xkd_jax.planning.costs import Collective

# Latency in seconds between neighboring chips ("How to scale your model", Google DeepMind 2025,
# chapter 3: about a microsecond).
HOP = 1e-6

# Passes of the bfloat16 matrix unit that one float32 product of this precision takes.
_PASSES = {"default": 1, "high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuChip(Chip):
    """The chip of one generation.

    ring: torus dimensions whose size is a multiple of this are rings.
    dimensions: number of torus dimensions.
    cloud_name: of accelerator types at Google Cloud, and the count of one chip in them.
    topology_options: options of the compiler's topology with which a chip is one device.
    """

    ring: int
    dimensions: int
    cloud_name: tuple[str, int]
    topology_options: dict[str, Any] = dataclasses.field(default_factory=dict)


def _chip(**values: Any) -> TpuChip:
    return TpuChip(platform="tpu", passes=_PASSES, per_host=4, **values)


CHIPS: dict[str, TpuChip] = {
    "v4": _chip(
        hbm=30.75, flops=275e12, bandwidth=1200e9, link=50e9, network=0.0, clock=1.05e9,
        ring=4, dimensions=3, host_cores=240, cloud_name=("v4", 2),
        topology_options={"chip_config_name": "megacore"},
    ),
    "v5e": _chip(
        hbm=15.75, flops=197e12, bandwidth=819e9, link=50e9, network=3.125e9, clock=1.5e9,
        ring=16, dimensions=2, host_cores=112, cloud_name=("v5litepod", 1),
    ),
    "v5p": _chip(
        hbm=95.73, flops=459e12, bandwidth=2765e9, link=100e9, network=6.25e9, clock=1.75e9,
        ring=4, dimensions=3, host_cores=208, cloud_name=("v5p", 2),
    ),
    "v6e": _chip(
        hbm=31.24, flops=918e12, bandwidth=1600e9, link=100e9, network=12.5e9, clock=1.75e9,
        ring=16, dimensions=2, host_cores=180, cloud_name=("v6e", 1),
    ),
}  # fmt: skip

_REQUEST = re.compile(r"(?P<shape>[1-9]\d*(?:x[1-9]\d*)+)(?:,slices=(?P<number>[1-9]\d*))?")


@dataclasses.dataclass(frozen=True)
class Slice:
    """One or several slices of a generation and shape, for example v5e and (16, 16).

    number: of slices, which the data center network connects.
    """

    generation: str
    shape: tuple[int, ...]
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> Slice:
        """Parses GENERATION:AxB or GENERATION:AxBxC, and `,slices=N` after it.

        Raises:
          UserError: the shape has another number of dimensions, or nothing is known of the network.
        """
        generation, _, wanted = text.partition(":")
        chip = CHIPS[generation]
        found = _REQUEST.fullmatch(wanted)
        shape = tuple(int(n) for n in found["shape"].split("x")) if found else ()
        if found is None or len(shape) != chip.dimensions:
            example = "x".join(["4"] * chip.dimensions)
            raise UserError(
                f"--plan={text} has no shape, and {generation} has {chip.dimensions} dimensions:"
                f" give one, for example {generation}:{example}, or {generation}:{example},slices=2"
                " for two slices."
            )
        number = int(found["number"] or 1)
        if number > 1 and not chip.network:
            known = ", ".join(name for name, other in CHIPS.items() if other.network)
            raise UserError(
                f"--plan={text}: the network between slices of {generation} is not known here: give"
                f" one slice, or one of {known}."
            )
        return cls(generation, shape, number)

    def __str__(self) -> str:
        return self._one + (f",slices={self.number}" if self.number > 1 else "")

    @property
    def _one(self) -> str:
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def noun(self) -> str:
        return "chip"

    @property
    def chip(self) -> TpuChip:
        return CHIPS[self.generation]

    @property
    def accelerator_type(self) -> str:
        """Google Cloud's name of a slice, which counts chips, or cores in v4 and v5p."""
        name, number = self.chip.cloud_name
        return f"{name}-{number * math.prod(self.shape)}"

    @property
    def chips(self) -> int:
        return self.number * math.prod(self.shape)

    @property
    def hosts(self) -> int:
        return self.number * math.ceil(math.prod(self.shape) / self.chip.per_host)

    @property
    def host_cores(self) -> int:
        return self.chip.host_cores

    @property
    def groups(self) -> tuple[int, ...]:
        """Chips along one dimension, and in a slice."""
        return self.shape[0], math.prod(self.shape)

    def is_ring(self, dimension: int) -> bool:
        """Whether a dimension of the torus is a ring."""
        return self.shape[dimension] % self.chip.ring == 0

    def launch(self, flags: Sequence[str]) -> str:
        """Returns the command that starts the run."""
        several = f" --slices={self.number}" if self.number > 1 else ""
        return (
            f"./launch_tpu.sh run --name=NAME --zone=ZONE --type={self.accelerator_type}{several}"
            f" -- {shlex.join(flags)}"
        )

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
        options = dict(self.chip.topology_options)
        if self.number > 1:
            options["num_slices"] = self.number
        if min(self.shape[:2]) < 2:  # less than the host of 2 x 2 that libtpu assumes
            rest = [1] * (3 - len(self.shape[:2]))
            options["chips_per_host_bounds"] = [*(min(2, n) for n in self.shape[:2]), *rest]
        with quiet_environment():
            import jax
            from jax.experimental import topologies

            try:
                topology = topologies.get_topology_desc(
                    platform="tpu", topology_name=self._one, **options
                )
            except jax.errors.JaxRuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"--plan={self} is not supported by the compiler ({reason}): give a shape that"
                    " Cloud TPU offers."
                ) from None
        return list(topology.devices)

    def collective_seconds(self, collective: Collective, mesh: Mesh) -> float:
        """Returns the seconds of one run of a collective.

        In a slice it uses all torus dimensions of its group at once: both directions of a dimension
        that is a ring within the group, one direction of a line.
        """
        members = [mesh.devices.flat[member] for member in collective.group]
        slices = {getattr(device, "slice_index", 0) for device in members}
        if len(slices) == 1:
            return self._torus_seconds(collective, [device.coords for device in members])
        first = [d.coords for d in members if d.slice_index == min(slices)]
        inside = self._torus_seconds(collective, first) if len(first) > 1 else 0.0
        return max(inside, seconds_between(collective, len(slices), self.chip.network))

    def _torus_seconds(self, collective: Collective, coordinates: list[Sequence[int]]) -> float:
        bandwidth, hops = 0.0, 0
        for dimension, size in enumerate(self.shape):
            extent = len({place[dimension] for place in coordinates})
            if extent > 1:
                ring = self.is_ring(dimension) and extent == size
                bandwidth += self.chip.link * (2 if ring else 1)
                hops += extent // 2 if ring else extent - 1
        if not bandwidth:
            return 0.0
        if collective.kind == "all-to-all":
            # on average data travels a quarter of a ring in each direction
            return collective.bytes * hops / 2 / bandwidth + hops * HOP
        if collective.kind == "collective-permute":
            return collective.bytes / self.chip.link + hops * HOP
        passes = 2 if collective.kind == "all-reduce" else 1
        return collective.received_by(len(coordinates)) / bandwidth + passes * hops * HOP


# Without these, libtpu searches for a TPU and prints to stderr that there is none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


_OPTIONS = "LIBTPU_INIT_ARGS"


@contextlib.contextmanager
def quiet_environment() -> Iterator[None]:
    """Prevents libtpu from searching for its machine, and lets it write listings."""
    before = {name: os.environ.get(name) for name in (*_ENVIRONMENT, _OPTIONS)}
    os.environ.update(_ENVIRONMENT)
    os.environ[_OPTIONS] = f"{before[_OPTIONS] or ''} {listings.options()}".strip()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
