"""Files of weights, whose format is recognized by their content."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from xkd_jax.inference.weight_files import safetensors_file, stored_zip, torch_file
from xkd_jax.inference.weight_files.tensors import WeightFileError

_HEAD = 512
_FORMATS = "give a file of torch.save or a safetensors file"
# First bytes of other files that a user may give as weights, the format, and what to do.
_OTHERS = (
    (re.compile(rb"\s*(<!doctype|<html|<\?xml)", re.I), "a web page", "download the file"),
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS", "run git lfs pull"),
    (re.compile(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "compressed", "unpack it"),
    (re.compile(rb"\x89HDF"), "an HDF5 file", _FORMATS),
    (re.compile(rb"\x93NUMPY"), "a NumPy array", _FORMATS),
    (re.compile(rb"[\x00-\xff]{257}ustar"), "a tar archive", "unpack it"),
)  # fmt: skip


class WeightFile(NamedTuple):
    """Content of a file.

    Attributes:
      path: of the file.
      root: the dictionary that was saved, with `LazyTensor`s, readable while the file is open.
      metadata: other texts in the file.
    """

    path: str
    root: dict[Any, Any]
    metadata: dict[str, str]


@contextlib.contextmanager
def opened(path: str) -> Iterator[WeightFile]:
    """Opens a file of `torch.save` or a safetensors file, by its path or URL.

    Raises:
      UserError: the file does not exist, has another format, or is damaged; also raised within the
        context, when a damaged tensor is read.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_local(path))
        try:
            yield _read(path, file)
        except WeightFileError as error:
            raise UserError(f"{path} can't be used as weights: {error}.") from None


def _read(path: str, file: BinaryIO) -> WeightFile:
    size = os.fstat(file.fileno()).st_size
    head = file.read(_HEAD)
    if not head:
        raise WeightFileError("it is empty")
    for pattern, what, remedy in _OTHERS:
        if pattern.match(head):
            raise WeightFileError(f"it is {what}", remedy)
    if head.startswith((stored_zip.MAGIC, torch_file.LEGACY_MAGIC)):
        root = torch_file.read(file, size)
        if not isinstance(root, dict):
            raise WeightFileError(
                "its content is not a dictionary of tensors",
                "save a state_dict() and give that file",
            )
        return WeightFile(path, root, {})
    if safetensors_file.looks_like_one(head):
        tensors, metadata = safetensors_file.read(file, size)
        return WeightFile(path, tensors, metadata)
    raise WeightFileError("its format is not known", _FORMATS)


@contextlib.contextmanager
def _local(path: str) -> Iterator[BinaryIO]:
    try:
        if storage.is_remote(path):
            with tempfile.NamedTemporaryFile() as copy:
                storage.fetch(path, cast(BinaryIO, copy))
                copy.seek(0)
                yield cast(BinaryIO, copy)
        else:
            with open(path, "rb") as file:
                yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path.") from None
    except OSError as error:
        raise file_error(
            error,
            f"{path} can't be read ({error.strerror or error}): check its permissions and storage.",
        ) from None
