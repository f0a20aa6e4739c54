"""The section `init` of a run's config."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from data_pipelines.field_ranges import Doc, at_least
from xkd_jax.config.stated_input import StatedAudio, StatedVideo


@dataclasses.dataclass(frozen=True, init=False, repr=False, eq=False)
class InitConfig:
    """Weights that the encoders of a run start from, and settings that a file of weights may lack.

    The key `from` is a keyword of Python, which no argument or attribute of a class may be named
    in its source: `source` has its value, and the methods that a dataclass would get are written
    out.
    """

    __annotations__["from"] = Annotated[
        str,
        Doc(
            "weights that encoders start from, as xkd_jax.load takes them: one path or one for each"
            " modality; empty: random"
        ),
    ]
    locals()["from"] = ""
    network: Annotated[
        Literal["student", "teacher"], Doc("network of a run or checkpoint that has both")
    ] = "student"
    step: Annotated[int, at_least(0), Doc("step of a run's checkpoint; 0: the newest")] = 0
    heads: Annotated[
        int, at_least(0), Doc("attention heads, if a file of weights lacks the number")
    ] = 0
    video: StatedVideo = dataclasses.field(default_factory=StatedVideo)
    audio: StatedAudio = dataclasses.field(default_factory=StatedAudio)

    def __init__(self, **values: Any):
        for field in dataclasses.fields(self):
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            object.__setattr__(self, field.name, values.pop(field.name, default))
        if values:
            raise TypeError(f"InitConfig has no field {', '.join(values)}")

    @property
    def source(self) -> str:
        """The value of the key `from`."""
        return str(getattr(self, "from"))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InitConfig) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"InitConfig{self._values()}"
