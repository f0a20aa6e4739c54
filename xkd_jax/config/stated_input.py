"""Settings of encoders that a file of weights may lack, as keys of a config.

With 0 or (), the value of the file is used, or the published one of its kind.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Doc, at_least


@dataclasses.dataclass(frozen=True)
class StatedVideo:
    """Input of an encoder of video."""

    frames: Annotated[int, at_least(0), Doc("frames of a clip, if a file lacks the number")] = 0
    size: Annotated[
        int, at_least(0), Doc("side of its frames in pixels, if a file of weights lacks it")
    ] = 0
    patch: Annotated[
        tuple[int, ...],
        Doc("sides of its patches (frames, height, width), if a file of weights lacks them"),
    ] = ()
    frame_rate: Annotated[
        float, at_least(0), Doc("frames per second that it gets; 0: as published for its kind")
    ] = 0.0
    mean: Annotated[
        tuple[float, ...], Doc("subtracted from red, green and blue; (): as the file or published")
    ] = ()
    std: Annotated[
        tuple[float, ...], Doc("divisor after the subtraction; (): as the file or published")
    ] = ()


@dataclasses.dataclass(frozen=True)
class StatedAudio:
    """Input of an encoder of audio."""

    mels: Annotated[int, at_least(0), Doc("mel bands, if a file of weights lacks the number")] = 0
    columns: Annotated[
        int, at_least(0), Doc("columns of its spectrograms, if a file of weights lacks the number")
    ] = 0
    patch: Annotated[
        tuple[int, ...],
        Doc("sides of its patches (mel bands, columns), if a file of weights lacks them"),
    ] = ()
    mean: Annotated[
        tuple[float, ...], Doc("one number, subtracted from spectrograms; (): as published")
    ] = ()
    std: Annotated[
        tuple[float, ...], Doc("one number, divisor after the subtraction; (): as published")
    ] = ()


def stated(keys: StatedVideo | StatedAudio) -> dict[str, Any]:
    """Returns the values that are given, as fields of a view's config.

    Raises:
      UserError: a mean or deviation of spectrograms has several numbers.
    """
    found = {name: value for name, value in dataclasses.asdict(keys).items() if value}
    if isinstance(keys, StatedAudio):
        for name in {"mean", "std"} & found.keys():
            if len(found[name]) > 1:
                raise UserError(f"audio.{name} is {found[name]}: give one number.")
            (found[name],) = found[name]
    return found
