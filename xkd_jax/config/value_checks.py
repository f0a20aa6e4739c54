"""Checks of folders and of combinations of values, for pretraining and evaluations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from data_pipelines.errors import UserError
from data_pipelines.loader_config import VideoAugment

if TYPE_CHECKING:  # xkd_jax.config imports this module
    from xkd_jax.config.pretraining import MeshConfig


# Stores with the guarantees of docs/storage.md, and a driver of TensorStore.
STORES = ("gs", "s3")


def folder(name: str, value: str) -> None:
    """Checks that an output folder is on a file system, or in a store that runs can write to.

    Args:
      name: key or flag, for the message.
      value: the folder or URL.

    Raises:
      UserError: it is the URL of another store, or of no bucket.
    """
    scheme, is_url, path = value.partition("://")
    if not is_url:
        return
    if scheme not in STORES:
        raise UserError(
            f"{name} is {value}, in a store without conditional writes or without a driver of"
            " TensorStore: give a folder that all hosts share, or a URL of gs:// or s3://."
        )
    if not path.strip("/"):
        raise UserError(f"{name} is {value}, without a bucket: give {scheme}://BUCKET/RUN.")


# First folders of absolute paths that etils, which Orbax uses, converts to URLs of stores.
_TAKEN_FOR_URLS = ("gs", "s3", "az", "hf")


def checkpoints_folder(name: str, value: str) -> None:
    """Checks a URL as `folder` does, or that Orbax and TensorStore don't change a path.

    Args:
      name: key or flag, for the message.
      value: the folder, or an empty string.

    Raises:
      UserError: it is.
    """
    folder(name, value)
    if not value or "://" in value:
        return
    path = os.path.realpath(value)
    faults = {
        "has a backslash, which TensorStore reads as /": "\\" in path,
        "is not UTF-8": path != path.encode(errors="replace").decode(),
        "has a part that ends in gs:, which Orbax reads as a URL": "gs:/" in f"{path}/",
        "is in a folder that Orbax reads as a URL": path.split("/")[1] in _TAKEN_FOR_URLS,
    }
    for fault, found in faults.items():
        if found:
            raise UserError(f"{name} is {value!r}, and {path!r} {fault}: give another folder.")


def blur_sigma(key: str, augment: VideoAugment) -> None:
    """Checks that a range of the blur's sigma has its smaller end first.

    Args:
      key: section of the augmentation, for the message.
      augment: the augmentation.

    Raises:
      UserError: the smaller end is last.
    """
    low, high = augment.blur_sigma
    if augment.blur_sigma_mode == "range" and low > high:
        raise UserError(
            f"{key}.blur_sigma is {augment.blur_sigma}: give two values above 0, the smaller one"
            " first."
        )


def mesh(config: MeshConfig) -> None:
    """Checks the sizes of a mesh's axes.

    Raises:
      UserError: a size is neither positive nor -1, or more than one is -1.
    """
    sizes = config.sizes
    if sizes.count(-1) > 1 or not all(n == -1 or n > 0 for n in sizes):
        raise UserError(
            f"mesh is {dict(zip(('data', 'fsdp', 'tensor'), sizes, strict=True))}: give positive"
            " sizes, or -1 for one of them."
        )
