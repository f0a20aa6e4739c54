"""NVIDIA GPUs on hosts: their constants, and descriptions to compile for them without one.

Sources: NVIDIA's data sheets of A100, H100 and H200 (SXM, dense bfloat16) for peaks, memory and
NVLink; of DGX A100, DGX H100 and DGX H200 for network cards, one for each GPU; Google Cloud's pages
of a2-highgpu-8g, a3-highgpu-8g and a3-ultragpu-8g for the cores of a host. All other
values are those that the driver reports for each card.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from data_pipelines.errors import UserError
from xkd_jax.planning.between_hosts import seconds_between
from xkd_jax.planning.chips import GIB, Chip
from xkd_jax.planning.costs import Collective

# Fraction of a GPU's memory that JAX allocates, unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
_PREALLOCATED = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Chip):
    """A card.

    name: as the driver reports it.
    memory: bytes.
    capability: compute capability.
    processors: streaming multiprocessors.
    lanes: float32 units of a processor.
    gigahertz: highest clock.
    cache: bytes of the second-level cache.
    shared: bytes of shared memory of a processor.
    """

    name: str
    memory: int
    capability: tuple[int, int]
    processors: int
    lanes: int
    gigahertz: float
    cache: int
    shared: int

    @property
    def description(self) -> str:
        """The card as XLA's `GpuTargetConfigProto`, in text format."""
        major, minor = self.capability
        device = {
            "threads_per_block_limit": 1024, "threads_per_warp": 32, "core_count": self.processors,
            "threads_per_core_limit": 2048, "fpus_per_core": self.lanes,
            "shared_memory_per_block": 48 * 2**10, "shared_memory_per_core": self.shared,
            "shared_memory_per_block_optin": self.shared - 2**10,
            "registers_per_core_limit": 2**16, "registers_per_block_limit": 2**16,
            "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1, "memory_bandwidth": round(self.bandwidth),
            "l2_cache_size": self.cache, "clock_rate_ghz": self.gigahertz,
            "device_memory_size": self.memory,
        }  # fmt: skip
        fields = " ".join(f"{key}: {value}" for key, value in device.items())
        return (
            f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {major} minor: {minor}"
            ' } } platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version {'
            f' major: 12 minor: 9 }} device_description_str: "{self.name}"'
        )


def _gpu(*, memory: int, float32: float, tf32: float, **values: Any) -> Gpu:
    """A card with these peaks of float32 products, without and with tensor cores."""
    flops = values["flops"]
    passes = {"default": flops / tf32, "high": 3 * flops / tf32, "highest": flops / float32}
    return Gpu(
        platform="gpu", hbm=_PREALLOCATED * memory / GIB, memory=memory, passes=passes, clock=None,
        per_host=8, **values,
    )  # fmt: skip


GPUS: dict[str, Gpu] = {
    "a100": _gpu(
        name="NVIDIA A100-SXM4-80GB", memory=85100068864, flops=312e12, float32=19.5e12,
        tf32=156e12, bandwidth=2039.04e9, link=300e9, network=25e9, host_cores=96,
        capability=(8, 0), processors=108, lanes=64, gigahertz=1.41, cache=40 * 2**20,
        shared=164 * 2**10,
    ),
    "h100": _gpu(
        name="NVIDIA H100 80GB HBM3", memory=84929347584, flops=989.4e12, float32=66.9e12,
        tf32=494.7e12, bandwidth=3352.32e9, link=450e9, network=50e9, host_cores=208,
        capability=(9, 0), processors=132, lanes=128, gigahertz=1.98, cache=50 * 2**20,
        shared=228 * 2**10,
    ),
    "h200": _gpu(
        name="NVIDIA H200", memory=151397597184, flops=989.4e12, float32=66.9e12, tf32=494.7e12,
        bandwidth=4800e9, link=450e9, network=50e9, host_cores=224,
        capability=(9, 0), processors=132, lanes=128, gigahertz=1.98, cache=50 * 2**20,
        shared=228 * 2**10,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gpus:
    """GPUs of one kind: `hosts` hosts with `each` of them."""

    kind: str
    hosts: int
    each: int

    @classmethod
    def parse(cls, text: str) -> Gpus:
        """Parses KIND:NUMBER, or KIND:HOSTSxNUMBER for several hosts.

        Raises:
          UserError: the number is missing, or larger than a host's.
        """
        kind, _, wanted = text.partition(":")
        most = GPUS[kind].per_host
        found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", wanted)
        if found is None or int(found[2]) > most:
            raise UserError(
                f"--plan={text} has no number of GPUs, or more than the {most} of a host: give one,"
                f" for example {kind}:8, or {kind}:4x8 for four hosts of eight."
            )
        return cls(kind, int(found[1] or 1), int(found[2]))

    def __str__(self) -> str:
        return f"{self.kind}:{f'{self.hosts}x' if self.hosts > 1 else ''}{self.each}"

    @property
    def noun(self) -> str:
        return "GPU"

    @property
    def chip(self) -> Gpu:
        return GPUS[self.kind]

    @property
    def chips(self) -> int:
        return self.hosts * self.each

    @property
    def host_cores(self) -> int:
        """Cores for the GPUs of a host in a plan, as a part of the cores of a whole host."""
        return self.chip.host_cores * self.each // self.chip.per_host

    @property
    def groups(self) -> tuple[int, ...]:
        """GPUs of a host, and all."""
        return self.each, self.chips

    def launch(self, flags: Sequence[str]) -> str:
        """Returns the command that starts the run."""
        command = f"python main.py {shlex.join(flags)}"
        if self.hosts > 1:
            return f"{command} on each host, or launch/slurm.sbatch: docs/launch.md"
        return command

    def devices(self) -> list[Any]:
        """Returns descriptions of the GPUs, for compilation without hardware.

        Raises:
          UserError: the compiler is not installed.
        """
        if not importlib.util.find_spec("jax_plugins") or not importlib.util.find_spec(
            "jax_plugins.xla_cuda12"
        ):
            raise UserError(
                "A plan for GPUs needs JAX's plugin for CUDA 12, which is not installed: pip"
                " install -e '.[plan-gpu]' (Linux)."
            )
        from jax.experimental import topologies

        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=self.chip.description,
            topology=f"1x{self.hosts}x{self.each}",
        )
        return list(topology.devices)

    def collective_seconds(self, collective: Collective, mesh: Mesh) -> float:
        """Returns the seconds of one run of a collective, without latencies.

        Each GPU has its own NVLink and its own network card.
        """
        hosts = {mesh.devices.flat[member].process_index for member in collective.group}
        members = len(collective.group) / len(hosts)
        inside = self._inside(collective, members) / self.chip.link
        if len(hosts) == 1:
            return inside
        return max(inside, seconds_between(collective, len(hosts), self.chip.network))

    @staticmethod
    def _inside(collective: Collective, members: float) -> float:
        """Bytes that a GPU receives from others of its host."""
        if collective.kind == "all-to-all":
            return collective.bytes * (members - 1) / len(collective.group)
        return collective.received_by(members)
