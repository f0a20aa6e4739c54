"""The safetensors format: a JSON header with the offsets of each tensor, then the tensors.

A file has 8 bytes with the header's length (little-endian), then the header, {name: {"dtype",
"shape", "data_offsets"}, "__metadata__": {text: text}}, then the data of the tensors, without gaps
or overlaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from data_pipelines import json_file
from xkd_jax.inference.weight_files.tensors import LazyTensor, WeightFileError, check_sizes

_LENGTH = struct.Struct("<Q")
_MOST_HEADER = 100 * 10**6  # as the format's own reader
_METADATA = "__metadata__"
_ALIGNMENT = 8
_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("<i1"), "U8": np.dtype("<u1"), "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"), "U64": np.dtype("<u8"), "BOOL": np.dtype("?"),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def looks_like_one(head: bytes) -> bool:
    """Whether the first 9 bytes of a file can be of this format."""
    return len(head) >= _LENGTH.size + 1 and head[_LENGTH.size : _LENGTH.size + 1] == b"{"


def read(file: BinaryIO, size: int) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Returns the tensors by name and the metadata of a file.

    The tensors are read from `file` later, which must stay open.

    Args:
      file: open for reading, with `seek`.
      size: size of the file, in bytes.

    Raises:
      WeightFileError: it is no such file, or damaged.
    """
    file.seek(0)
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    if length > min(_MOST_HEADER, size - _LENGTH.size):
        raise WeightFileError("its header is longer than the file or than the limit of the format")
    try:
        header = json_file.parse(_exactly(file, length))
    except json_file.ContentError as error:
        raise WeightFileError(f"its header can't be used: {error}") from None
    if not isinstance(header, dict):
        raise WeightFileError("its header is no JSON object")
    metadata = _metadata(header.pop(_METADATA, {}))
    begin = _LENGTH.size + length
    places = {name: _place(entry) for name, entry in header.items()}
    _check_cover(places, size - begin)
    return {
        name: LazyTensor(shape, dtype, _reader(file, begin + start, shape, dtype))
        for name, (dtype, shape, start, _) in places.items()
    }, metadata


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes tensors in the order of their names, so that equal tensors give equal bytes.

    Args:
      file: open for writing.
      tensors: {name: array} with dtypes of the format, in any memory layout.
      metadata: {name: text}; `format` is added, which older readers need.
    """
    header: dict[str, Any] = {_METADATA: {"format": "pt", **metadata}}
    offset = 0
    # larger elements first, so that all are aligned, as the format's own writer
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        dtype = _NAMES[tensor.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    content = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    file.write(_LENGTH.pack(len(content)) + content)
    for name in names:
        tensor = tensors[name]
        little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
        file.write(little.tobytes(order="C"))


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise WeightFileError("it is truncated")
    return content


def _metadata(values: Any) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise WeightFileError("its metadata are not strings")
    return values


_Place = tuple[np.dtype, tuple[int, ...], int, int]


def _place(entry: Any) -> _Place:
    """Returns dtype, shape, first and last byte of a tensor in a header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightFileError("its header has an entry that describes no tensor")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise WeightFileError(
            f"a tensor in it has the dtype {json_file.shown(entry['dtype'])}, which is not"
            " supported"
        )
    shape = check_sizes(entry["shape"])
    offsets = entry["data_offsets"]
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(o) is not int for o in offsets)
    ):
        raise WeightFileError("a tensor in it does not have two offsets")
    start, end = offsets
    if end - start != math.prod(shape) * dtype.itemsize:
        raise WeightFileError("a tensor in it has another size than its offsets state")
    return dtype, shape, start, end


def _check_cover(places: Mapping[str, _Place], size: int) -> None:
    """Checks that tensors cover the data without overlaps and gaps."""
    at = 0
    for start, end in sorted((start, end) for _, _, start, end in places.values()):
        if start != at:
            raise WeightFileError("tensors in it overlap, or leave bytes between them")
        at = end
    if at != size:
        raise WeightFileError("it is truncated, or has bytes behind its tensors")


def _reader(file: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    def read_tensor() -> np.ndarray:
        file.seek(start)
        content = _exactly(file, math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape).copy()

    return read_tensor
