"""Files of `torch.save`, read without PyTorch.

Since PyTorch 1.6 a file is a zip archive of stored records (`stored_zip`): `STEM/data.pkl`, a
pickle with persistent ids in place of storages, and `STEM/data/KEY`, their bytes. Before that it is
five pickles one after the other (a magic number, a version, the system's properties, the object,
the storages' keys), then each storage's count of elements and its bytes.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from xkd_jax.inference.weight_files import pickles, stored_zip
from xkd_jax.inference.weight_files.tensors import (
    BFLOAT16,
    MOST_SIZE,
    LazyTensor,
    WeightFileError,
    check_sizes,
)

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_LEGACY_VERSION = 1001
_STORED_COUNT = struct.Struct("<q")
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"), "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"), "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"), "CharStorage": np.dtype("<i1"),
    "ByteStorage": np.dtype("<u1"), "BoolStorage": np.dtype("?"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A storage: the elements of one or more tensors."""

    dtype: np.dtype
    count: int
    read: Callable[[], bytes]


def read(file: BinaryIO, size: int) -> Any:
    """Returns the object that was saved, with a `LazyTensor` for each tensor.

    Objects other than numbers, texts, tuples, lists and dictionaries become `Inert`. The tensors
    are read from `file` later, which must stay open.

    Args:
      file: open for reading, with `seek`.
      size: its bytes.

    Raises:
      WeightFileError: it is no such file, or damaged.
    """
    file.seek(0)
    head = file.read(len(LEGACY_MAGIC))
    return _read_zip(file, size) if head.startswith(stored_zip.MAGIC) else _read_legacy(file, size)


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    if not isinstance(items, list | tuple):
        raise WeightFileError("a dictionary in it is not made of pairs")
    found: dict[Any, Any] = {}
    for pair in items:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise WeightFileError("a dictionary in it is not made of pairs")
        found[pair[0]] = pair[1]
    return found


def _tensor(storage: Any, offset: Any, sizes: Any, strides: Any, *_: Any) -> LazyTensor:
    """A view of a storage, with all bounds checked, which PyTorch does not do."""
    if not isinstance(storage, _Storage):
        raise WeightFileError("a tensor in it has no storage")
    shape = check_sizes(sizes)
    steps = check_sizes(strides) if math.prod(shape) else (0,) * len(shape)
    if len(steps) != len(shape):
        raise WeightFileError("a tensor in it has another number of strides than of sizes")
    if type(offset) is not int or not 0 <= offset <= MOST_SIZE:
        raise WeightFileError("a tensor in it has an offset that is not in its storage")
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise WeightFileError("a tensor in it reaches past its storage")
    if math.prod(shape) > storage.count:
        raise WeightFileError("a tensor in it has more elements than its storage")

    def read_tensor() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, storage.dtype)
        elements = np.frombuffer(storage.read(), storage.dtype)[offset:]
        strides_in_bytes = [step * storage.dtype.itemsize for step in steps]
        view = np.lib.stride_tricks.as_strided(elements, shape, strides_in_bytes, writeable=False)
        return np.array(view, order="C")

    return LazyTensor(shape, storage.dtype, read_tensor)


_GLOBALS: dict[pickles.Global, Any] = {
    ("collections", "OrderedDict"): pickles.Callee(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): pickles.Callee(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): pickles.Callee(_tensor),
    ("torch._utils", "_rebuild_parameter"): pickles.Callee(lambda data, *_: data),
    **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


def _storage_of(identity: Any, length: int) -> tuple[str, np.dtype, int]:
    """Key, dtype and count of a persistent id, which must have `length` parts."""
    if not isinstance(identity, tuple) or len(identity) != length or identity[0] != "storage":
        raise WeightFileError("its pickle has a persistent id that is no storage")
    _, kind, key, _, count = identity[:5]
    if not isinstance(kind, _StorageType):
        raise WeightFileError(
            "a storage in it is of a type that is not supported", "save the weights in float32"
        )
    if not isinstance(key, str) or type(count) is not int or not 0 <= count <= MOST_SIZE:
        raise WeightFileError("a storage in it has no name or no size")
    return key, kind.dtype, count


def _read_zip(file: BinaryIO, size: int) -> Any:
    records = stored_zip.records(file, size)
    stems = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(stems) != 1:
        raise WeightFileError(
            "it is a zip archive that torch.save did not make", "give a file of torch.save"
        )
    stem = stems[0]
    if any(name.startswith((f"{stem}/code/", f"{stem}/constants.pkl")) for name in records):
        raise WeightFileError("it is a TorchScript program", "save its state_dict() instead")
    order = records.get(f"{stem}/byteorder")
    if order is not None and order.read(file, 16) != b"little":
        raise WeightFileError(
            "it was saved on a big-endian machine", "save it on a little-endian one"
        )

    def persistent(identity: Any) -> _Storage:
        key, dtype, count = _storage_of(identity, 5)
        record = records.get(f"{stem}/data/{key}")
        if record is None:
            raise WeightFileError("a storage of its tensors is missing")
        if record.size != count * dtype.itemsize:
            raise WeightFileError("a storage in it has another length than its tensors state")
        return _Storage(dtype, count, lambda: record.read(file, record.size))

    pickle = records[f"{stem}/data.pkl"].read(file, pickles.MOST_BYTES)
    return pickles.Machine(_GLOBALS, persistent).load(io.BytesIO(pickle))


def _read_legacy(file: BinaryIO, size: int) -> Any:
    file.seek(0)
    head = io.BytesIO(file.read(min(size, pickles.MOST_BYTES)))
    storages: dict[str, tuple[np.dtype, int]] = {}
    places: dict[str, int] = {}

    def persistent(identity: Any) -> _Storage:
        key, dtype, count = _storage_of(identity, 6)
        if identity[5] is not None:
            raise WeightFileError(
                "a storage in it is part of another", "save it again with PyTorch 1.6 or newer"
            )
        if storages.setdefault(key, (dtype, count)) != (dtype, count):
            raise WeightFileError("a storage in it has two sizes")

        def read_storage() -> bytes:
            file.seek(places[key])
            content = file.read(count * dtype.itemsize)
            if len(content) < count * dtype.itemsize:
                raise WeightFileError("it is truncated")
            return content

        return _Storage(dtype, count, read_storage)

    header = [pickles.Machine({}, _no_storage).load(head) for _ in range(3)]
    if header[1] != _LEGACY_VERSION or not isinstance(header[2], dict):
        raise WeightFileError(
            "its version of the format is not known", "save it again with PyTorch 1.6 or newer"
        )
    if header[2].get("little_endian") is not True:
        raise WeightFileError(
            "it was saved on a big-endian machine", "save it on a little-endian one"
        )
    found = pickles.Machine(_GLOBALS, persistent).load(head)
    keys = pickles.Machine({}, _no_storage).load(head)
    places |= _legacy_places(file, head.tell(), keys, storages, size)
    return found


def _no_storage(_: Any) -> Any:
    raise WeightFileError("it has storages in its header")


def _legacy_places(
    file: BinaryIO, start: int, keys: Any, storages: Mapping[str, tuple[np.dtype, int]], size: int
) -> dict[str, int]:
    """Offset of each storage's elements, in bytes."""
    places: dict[str, int] = {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise WeightFileError("it has no list of its storages")
    if sorted(keys) != sorted(storages):
        raise WeightFileError("its list of storages is not that of its tensors")
    for key in keys:
        dtype, count = storages[key]
        file.seek(start)
        stated = file.read(_STORED_COUNT.size)
        if len(stated) < _STORED_COUNT.size or _STORED_COUNT.unpack(stated)[0] != count:
            raise WeightFileError("a storage in it has another length than its tensors state")
        places[key] = start + _STORED_COUNT.size
        start = places[key] + count * dtype.itemsize
        if start > size:
            raise WeightFileError("it is truncated")
    return places


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as torch.save does, which torch.load reads with weights_only.

    Equal tensors in the same order give equal bytes.

    Args:
      file: open for writing.
      tensors: float32, by name.
    """
    stem = "archive"
    arrays = [np.array(tensor, "<f4", order="C") for tensor in tensors.values()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(f"{stem}/{name}"), content)

        add("data.pkl", pickles.state_dict(zip(tensors, arrays, strict=True)))
        add("byteorder", b"little")
        for key, array in enumerate(arrays):
            add(f"data/{key}", array.tobytes())
        add("version", b"3\n")
