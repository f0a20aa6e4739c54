"""Checks of values that the configs of pretraining and of evaluations have in common."""

from __future__ import annotations

import dataclasses
import math
import os
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from data_pipelines.errors import UserError

if TYPE_CHECKING:  # xkd_jax.config checks itself with this
    from xkd_jax.config.pretraining import MeshConfig


def at_least(least: float, config: Any, *keys: str) -> None:
    """Refuses what is below `least`, or not finite, at dotted keys of a config.

    Raises:
      UserError: one of them is.
    """
    for key in keys:
        if not least <= (value := attrgetter(key)(config)) < math.inf:
            raise _out_of_range(key, value, f"at least {least:g}")


def above_zero(config: Any, *keys: str) -> None:
    """Refuses what is not above 0, or not finite, at dotted keys of a config.

    Raises:
      UserError: one of them is not.
    """
    for key in keys:
        if not 0 < (value := attrgetter(key)(config)) < math.inf:
            raise _out_of_range(key, value, "more than 0")


def _out_of_range(key: str, value: float, bound: str) -> UserError:
    finite = " and finite" if value == math.inf else ""
    return UserError(f"{key} is {value}: give {bound}{finite}.")


def below_one(config: Any, *keys: str) -> None:
    """Refuses what is not of 0 to below 1 at dotted keys of a config.

    Raises:
      UserError: one of them is not.
    """
    for key in keys:
        if not 0 <= (value := attrgetter(key)(config)) < 1:
            raise UserError(f"{key} is {value}: give 0 to below 1.")


def up_to(most: float, config: Any, *keys: str) -> None:
    """Refuses what is not of 0 to `most` at dotted keys of a config.

    Raises:
      UserError: one of them is not.
    """
    for key in keys:
        if not 0 <= (value := attrgetter(key)(config)) <= most:
            raise UserError(f"{key} is {value}: give 0 to {most:g}.")


def seed(value: int) -> None:
    """Checks a seed: JAX takes 32 bits of it.

    Raises:
      UserError: it has more, or is negative.
    """
    if not 0 <= value < 2**32:
        raise UserError(f"seed is {value}: give 0 to {2**32 - 1}.")


def folder(name: str, value: str) -> None:
    """Refuses a URL where a folder is written to.

    Raises:
      UserError: it is one.
    """
    if "://" in value:
        raise UserError(
            f"{name} is {value}: give a folder that all hosts see, of a shared file system."
        )


# First folders of absolute paths that etils, which Orbax uses, takes for the URLs of stores.
_TAKEN_FOR_URLS = ("gs", "s3", "az", "hf")


def checkpoints_folder(name: str, value: str) -> None:
    """Refuses a URL, and a folder in which Orbax or TensorStore would read another path.

    Raises:
      UserError: it is one.
    """
    folder(name, value)
    if not value:
        return
    path = os.path.realpath(value)
    faults = {
        "has a backslash, which TensorStore takes for /": "\\" in path,
        "is not UTF-8": path != path.encode(errors="replace").decode(),
        "has a part that ends in gs:, which Orbax takes for a URL's": "gs:/" in f"{path}/",
        "lies in a folder that Orbax takes for a URL": path.split("/")[1] in _TAKEN_FOR_URLS,
    }
    for fault, found in faults.items():
        if found:
            raise UserError(f"{name} is {value!r}, and {path!r} {fault}: give another folder.")


def video_augment(config: Any, key: str) -> None:
    """Checks the random changes to video (`VideoAugment`) at a dotted key of a config.

    Raises:
      UserError: nothing can be drawn from a range, or a probability is none.
    """
    augment = attrgetter(key)(config)
    _range(config, f"{key}.area", most=1.0)
    _range(config, f"{key}.aspect")
    _range(config, f"{key}.blur_sigma", ordered=augment.blur_sigma_is == "range")
    at_least(0, config, f"{key}.brightness", f"{key}.contrast", f"{key}.saturation")
    up_to(0.5, config, f"{key}.hue")
    up_to(1, config, f"{key}.flip", f"{key}.grayscale", f"{key}.blur")


def audio_augment(config: Any, key: str) -> None:
    """Checks the random changes to audio (`AudioAugment`) at a dotted key of a config.

    Raises:
      UserError: nothing can be drawn from a range.
    """
    up_to(1, config, f"{key}.volume")
    _range(config, f"{key}.mel_scale")
    _range(config, f"{key}.time_scale")
    canvas = attrgetter(f"{key}.canvas")(config)
    if not all(side >= 1 for side in canvas):
        raise UserError(f"{key}.canvas is {canvas}: give two values of at least 1.")


def mesh(config: MeshConfig) -> None:
    """Checks the sizes of a mesh's axes.

    Raises:
      UserError: one is neither positive nor -1, or more than one is -1.
    """
    sizes = dataclasses.astuple(config)
    if sizes.count(-1) > 1 or not all(n == -1 or n > 0 for n in sizes):
        raise UserError(
            f"mesh is {dataclasses.asdict(config)}: give positive sizes, or -1 for one of them."
        )


def _range(config: Any, key: str, most: float = math.inf, *, ordered: bool = True) -> None:
    low, high = values = attrgetter(key)(config)
    if not all(0 < value <= most and value < math.inf for value in values) or (
        ordered and low > high
    ):
        bound = f" of up to {most:g}" if most < math.inf else ""
        order = ", the smaller one first" if ordered else ""
        raise UserError(f"{key} is {values}: give two values above 0{bound}{order}.")
