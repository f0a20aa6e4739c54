"""What no single field's range says, for the configs of pretraining and of evaluations."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from data_pipelines.errors import UserError
from data_pipelines.loader_config import VideoAugment

if TYPE_CHECKING:  # xkd_jax.config checks itself with this
    from xkd_jax.config.pretraining import MeshConfig


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


def blur_sigma(key: str, augment: VideoAugment) -> None:
    """Checks that the range which the blur's sigma is drawn from has its smaller end first.

    Raises:
      UserError: it has not.
    """
    low, high = augment.blur_sigma
    if augment.blur_sigma_is == "range" and low > high:
        raise UserError(
            f"{key}.blur_sigma is {augment.blur_sigma}: give two values above 0, the smaller one"
            " first."
        )


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
