"""Values from the caller for those that a file of weights lacks, and their names in messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Given:
    """Values from the caller.

    Attributes:
      heads: number of attention heads.
      video: fields of `VideoConfig`, such as frames, size, patch.
      audio: fields of `AudioConfig`, such as mels, columns, patch.
      assumed: fields of each modality that are used if neither the file nor the caller has them.
      flags: prefix of the command-line flags for these values, such as `--config.`; empty: they are
        arguments of `xkd_jax.load`.
    """

    heads: int | None = None
    video: Fields | None = None
    audio: Fields | None = None
    assumed: Mapping[Modality, Fields] = dataclasses.field(default_factory=dict)
    flags: str = ""

    def refuse(self, path: str) -> None:
        """Checks that nothing is given for weights that state everything.

        Args:
          path: of the weights, for the message.

        Raises:
          UserError: something is given.
        """
        names = {"heads": self.heads, "video": self.video, "audio": self.audio}
        if given := [self.name(name) for name, value in names.items() if value]:
            raise UserError(
                f"{path} states the heads and inputs of its encoders: leave {', '.join(given)} out."
            )

    def of(self, modality: Modality) -> Fields:
        """Returns the given fields of a modality."""
        return {"video": self.video, "audio": self.audio}[modality] or {}

    def name(self, name: str) -> str:
        """Returns how the caller gives a value, such as heads or network."""
        return f"{self.flags}{name}"

    def field(self, modality: Modality, name: str) -> str:
        """Returns how the caller gives a field of a modality."""
        return f"{self.flags}{modality}.{name}" if self.flags else f"{modality}[{name!r}]"

    def fields(self, modality: Modality, names: Iterable[str]) -> str:
        """Returns how the caller gives several fields of a modality."""
        if self.flags:
            return ", ".join(f"{self.field(modality, name)}=..." for name in names)
        return f"{modality}={{{', '.join(f'{name!r}: ...' for name in names)}}}"
