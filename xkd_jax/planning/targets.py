"""Hardware that a run is planned for, and its text form: `v5e:16x16`, `h100:4x8`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from jax.sharding import Mesh

from data_pipelines.errors import UserError
from xkd_jax.planning.chips import Chip
from xkd_jax.planning.costs import Collective
from xkd_jax.planning.gpus import GPUS, Gpus
from xkd_jax.planning.slices import CHIPS, Slice


class Target(Protocol):
    """Devices that a step is compiled for, without having them.

    noun: name of a device in text, `chip` or `GPU`.
    groups: numbers of devices that are close to each other, for meshes of a search.
    host_cores: virtual CPU cores of a host.
    """

    @property
    def noun(self) -> str: ...

    @property
    def chip(self) -> Chip: ...

    @property
    def chips(self) -> int: ...

    @property
    def hosts(self) -> int: ...

    @property
    def host_cores(self) -> int: ...

    @property
    def groups(self) -> Sequence[int]: ...

    def devices(self) -> list[Any]:
        """Returns descriptions of the devices, for compilation without hardware.

        Raises:
          UserError: the compiler is not installed, or does not support them.
        """

    def collective_seconds(self, collective: Collective, mesh: Mesh) -> float:
        """Returns the seconds of one run of a collective, at least."""

    def launch(self, flags: Sequence[str]) -> str:
        """Returns instructions to start the run on this hardware."""


def parse(text: str) -> Target:
    """Parses KIND:SHAPE, as `Slice.parse` and `Gpus.parse`.

    Raises:
      UserError: the kind is unknown, or the shape is none of its shapes.
    """
    kind = text.partition(":")[0]
    if kind in CHIPS:
        return Slice.parse(text)
    if kind in GPUS:
        return Gpus.parse(text)
    raise UserError(
        f"--plan={text} names no known TPU or GPU: give one of {', '.join(CHIPS)} and a shape, for"
        f" example v5e:16x16, or one of {', '.join(GPUS)} and a number, for example h100:8."
    )
