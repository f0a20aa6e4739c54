"""Files in the format of `torch.save`, without PyTorch; any part may be made invalid."""

import dataclasses
import io
import struct
import zipfile

import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
    "int64": "LongStorage", "int32": "IntStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
    "bfloat16": "BFloat16Storage",
}  # fmt: skip
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


@dataclasses.dataclass
class Raw:
    """Instructions of a pickle that leave one value."""

    code: bytes


@dataclasses.dataclass
class Tensor:
    """An array, or a view of a storage that others have too."""

    storage: np.ndarray
    key: str
    sizes: tuple
    strides: tuple
    offset: int = 0
    count: int | None = None
    rebuild: str = "torch._utils _rebuild_tensor_v2"
    kind: str | None = None

    @classmethod
    def of(cls, array, key):
        strides = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides)
        return cls(np.ascontiguousarray(array), key, array.shape, strides[: array.ndim])


def call(name, *arguments, legacy=False):
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + code(tuple(arguments), legacy) + b"R"


def code(value, legacy=False):
    """Instructions that leave a value on the pickle machine's stack."""
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Tensor):
        return _tensor(value, legacy)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        length = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return b"}(" + b"".join(code(x, legacy) for kv in value.items() for x in kv) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(code(x, legacy) for x in value) + b"e"
    return b"(" + b"".join(code(x, legacy) for x in value) + b"t"


def _tensor(t, legacy):
    kind = Raw(f"ctorch\n{t.kind or STORAGES[t.storage.dtype.name]}\n".encode())
    count = t.storage.size if t.count is None else t.count
    identity = ("storage", kind, t.key, "cuda:0", count, *((None,) if legacy else ()))
    storage = Raw(code(identity, legacy) + b"Q")
    hooks = Raw(b"ccollections\nOrderedDict\n)R")
    return call(t.rebuild, storage, t.offset, t.sizes, t.strides, False, hooks, legacy=legacy)


def pickled(value, legacy=False):
    return b"\x80\x02" + code(value, legacy) + b"."


def tensors_of(arrays):
    return {name: Tensor.of(array, str(i)) for i, (name, array) in enumerate(arrays.items())}


def storages_of(value):
    """The storages of the tensors in nested dictionaries, by key."""
    if isinstance(value, Tensor):
        return {value.key: value.storage}
    inner = value.values() if isinstance(value, dict) else ()
    return {key: s for part in inner for key, s in storages_of(part).items()}


def zipped(value, *, stem="archive", compression=zipfile.ZIP_STORED, more=()):
    """A file since PyTorch 1.6; `more` are further (name, content) records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{stem}/data.pkl", pickled(value))
        for key, storage in storages_of(value).items():
            archive.writestr(f"{stem}/data/{key}", storage.tobytes())
        archive.writestr(f"{stem}/version", "3\n")
        for name, content in more:
            archive.writestr(name, content)
    return file.getvalue()


def legacy(value, *, little_endian=True, magic=MAGIC, version=VERSION):
    """A file in the format before PyTorch 1.6."""
    storages = storages_of(value)
    head = [magic, version, {"protocol_version": version, "little_endian": little_endian}]
    parts = [pickled(part) for part in head]
    parts += [pickled(value, legacy=True), pickled(list(storages))]
    for storage in storages.values():
        parts += [struct.pack("<q", storage.size), storage.tobytes()]
    return b"".join(parts)
