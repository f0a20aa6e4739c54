"""The safetensors format, with invalid headers."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from data_pipelines.errors import UserError
from xkd_jax.inference.weight_files import safetensors_file, weight_file

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def read_all(path):
    with weight_file.opened(str(path)) as file:
        return {name: tensor.read() for name, tensor in file.root.items()}, file.metadata


DATA = ARRAY.tobytes()


def raw(header, data=DATA):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(path, tensors, **metadata):
    with open(path, "wb") as file:
        safetensors_file.write(file, tensors, metadata)


def test_tensors_of_any_layout_are_read_back(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "transposed": rng.normal(size=(3, 4)).astype(np.float32).T,
        "strided": np.arange(10, dtype=np.int64)[::3],
        "scalar": np.array(2.5),
        "flags": np.array([True, False, True]),
        "half": rng.normal(size=3).astype(np.float16),
        "brain": rng.normal(size=3).astype(ml_dtypes.bfloat16),
        "swapped": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 4), np.uint8),
    }
    write(tmp_path / "a.safetensors", tensors, step="7")
    found, metadata = read_all(tmp_path / "a.safetensors")
    assert metadata == {"format": "pt", "step": "7"}
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype.newbyteorder("=")


def test_equal_tensors_give_equal_bytes(tmp_path):
    tensors = {"b": ARRAY, "a": ARRAY.astype(np.float64), "c": np.array(True)}
    write(tmp_path / "1", tensors, x="y")
    write(tmp_path / "2", dict(reversed(tensors.items())), x="y")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def entry(**changes):
    return {"w": ENTRY | changes}


WRONG = {
    "a header longer than the file": (struct.pack("<Q", 2**63 - 1) + b"{}", "longer"),
    "a header that is no JSON": (raw(b"{w}"), "JSON"),
    "a header with one name twice": (
        raw(b'{"w":%s,"w":%s}' % ((json.dumps(ENTRY).encode(),) * 2)),
        "twice",
    ),
    "a deep header": (raw(b'{"a":' * 100_000), "nested too deeply"),
    "two tensors in one place": (raw(entry() | {"v": ENTRY}), "overlap"),
    "a hole": (raw(entry(data_offsets=[8, 32]), bytes(32)), "between"),
    "bytes behind": (raw(entry(), bytes(25)), "behind"),
    "a file that is cut off": (raw(entry(), bytes(23)), "truncated"),
    "reversed offsets": (raw(entry(data_offsets=[24, 0])), "another size"),
    "negative offsets": (raw(entry(data_offsets=[-24, 0])), "between"),
    "another size": (raw(entry(shape=[2, 4])), "another size"),
    "another dtype": (raw(entry(dtype="F64")), "another size"),
    "an unknown dtype": (raw(entry(dtype="F8_E4M3")), "F8_E4M3"),
    "a dtype that is a list": (raw(entry(dtype=["F32"])), "not supported"),
    "sizes that overflow": (raw(entry(shape=[2**40, 2**40])), "too large"),
    "a negative size": (raw(entry(shape=[-2, -3])), "whole number"),
    "a size that is no whole number": (raw(entry(shape=[2.0, 3])), "whole number"),
    "one offset": (raw(entry(data_offsets=[24])), "two offsets"),
    "an unknown key": (raw({"w": ENTRY | {"stride": 1}}), "no tensor"),
    "an entry that is a number": (raw({"w": 3}), "no tensor"),
    "metadata that are numbers": (raw(entry() | {"__metadata__": {"a": 1}}), "metadata"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_inconsistent_header_is_refused(tmp_path, fault):
    content, words = WRONG[fault]
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="can't be used as weights: ") as refused:
        read_all(path)
    assert words in str(refused.value)


def test_mutations_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    good, path = raw(entry()), tmp_path / "mutated"
    for _ in range(200):
        content = bytearray(good)
        for at in rng.integers(len(content), size=2):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        try:
            found, _ = read_all(path)
        except UserError:
            continue
        assert sum(array.nbytes for array in found.values()) <= len(content)
