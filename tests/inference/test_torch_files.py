"""Files of torch.save: tensors are read, all else is dropped or refused, nothing is executed."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch_files
from torch_files import Raw, Tensor, legacy, tensors_of, zipped

from data_pipelines.errors import UserError
from xkd_jax.inference.weight_files import weight_file
from xkd_jax.inference.weight_files.tensors import LazyTensor

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
GOOD = Tensor.of(ARRAY, "0")


def read_all(path):
    """Every tensor of the dictionary in a file, and of the dictionaries in it."""
    with weight_file.opened(str(path)) as file:
        return collect(file.root)


def collect(value):
    found = {}
    for name, inner in value.items():
        if isinstance(inner, LazyTensor):
            found[name] = inner.read()
        elif isinstance(inner, dict):
            found |= {f"{name}/{k}": v for k, v in collect(inner).items()}
    return found


def refusal(path):
    with pytest.raises(UserError) as refused:
        read_all(path)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path} can't be used as weights: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def written(tmp_path):
    def write(content):
        (tmp_path / "file.pth.tar").write_bytes(content)
        return tmp_path / "file.pth.tar"

    return write


@pytest.mark.parametrize("make", [zipped, legacy])
def test_tensors_of_every_dtype_are_read_bit_for_bit(written, make):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, 3, (2, 3, 4)).astype(name)
        for name in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
    }
    arrays["bfloat16"] = rng.normal(size=5).astype(ml_dtypes.bfloat16)
    arrays["scalar"] = np.array(7.0, np.float32)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    found = read_all(written(make({"epoch": 3, "model": tensors_of(arrays)})))
    assert sorted(found) == sorted(f"model/{name}" for name in arrays)
    for name, array in arrays.items():
        got = found[f"model/{name}"]
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("make", [zipped, legacy])
def test_views_of_one_storage_are_cut_out_of_it(written, make):
    whole = np.arange(12, dtype=np.float32)
    views = {
        "rows": Tensor(whole, "0", (2, 3), (3, 1), offset=6),
        "transposed": Tensor(whole, "0", (3, 4), (1, 3)),
        "every other": Tensor(whole, "0", (6,), (2,)),
    }
    found = read_all(written(make(views)))
    np.testing.assert_array_equal(found["rows"], whole[6:].reshape(2, 3))
    np.testing.assert_array_equal(found["transposed"], whole.reshape(4, 3).T)
    np.testing.assert_array_equal(found["every other"], whole[::2])


def test_objects_other_than_tensors_are_dropped_and_never_constructed(written):
    namespace = Raw(b"cargparse\nNamespace\n)R}(X\x02\x00\x00\x00lrK\x01ub")
    state = Raw(torch_files.code({"w": GOOD})[:-1] + b"u}X\x09\x00\x00\x00_metadataNsb")
    parameter = Raw(torch_files.call("torch._utils _rebuild_parameter", GOOD, True, {}))
    value = {"args": namespace, "model": state, "parameter": parameter, "w": GOOD}
    found = read_all(written(zipped(value)))
    assert sorted(found) == ["model/w", "parameter", "w"]
    np.testing.assert_array_equal(found["parameter"], ARRAY)


@pytest.mark.parametrize(
    "harm",
    [
        b"cbuiltins\nopen\n(X\x06\x00\x00\x00MARKERX\x01\x00\x00\x00wtR",
        b"cos\nsystem\n(X\x0c\x00\x00\x00touch MARKERtR",
        b"\x8c\x02os\x8c\x06system\x93(X\x0c\x00\x00\x00touch MARKERtR",
        b"\x8c\x05torch\x8c\x09os.system\x93(X\x0c\x00\x00\x00touch MARKERtR",
        b"cbuiltins\nopen\n(X\x06\x00\x00\x00MARKERX\x01\x00\x00\x00wt\x81",
        b"(ibuiltins\nopen\n",
        b"(cbuiltins\nopen\nX\x06\x00\x00\x00MARKERX\x01\x00\x00\x00wo",
        b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb",
        b"ccollections\nOrderedDict\n)R}X\x09\x00\x00\x00__class__cos\nsystem\nsb",
    ],
)
def test_functions_named_by_a_file_are_not_called(written, tmp_path, monkeypatch, harm):
    monkeypatch.chdir(tmp_path)
    found = read_all(written(zipped({"harm": Raw(harm), "w": GOOD})))
    assert list(found) == ["w"]
    assert not (tmp_path / "MARKER").exists()


def changed(**changes):
    return {"w": dataclasses.replace(GOOD, **changes)}


# what is wrong with a file -> (its object, words of the refusal)
WRONG_TENSORS = {
    "past the end": (changed(offset=1), "past its storage"),
    "far past the end": (changed(sizes=(2, 3), strides=(2**40, 1)), "past its storage"),
    "more elements than stored": (changed(sizes=(10**12,), strides=(0,)), "more elements"),
    "negative stride": (changed(strides=(-3, 1)), "whole number"),
    "negative size": (changed(sizes=(-2, 3)), "whole number"),
    "negative offset": (changed(offset=-1), "an offset that is not in"),
    "sizes that overflow": (changed(sizes=(2**40, 2**40), strides=(0, 0)), "too large"),
    "a size that is no number": (changed(sizes=("2", 3)), "whole number"),
    "a size that is a bool": (changed(sizes=(True, 3)), "whole number"),
    "sizes and strides": (changed(strides=(1,)), "strides"),
    "seventeen axes": (changed(sizes=(1,) * 17, strides=(1,) * 17), "no list of sizes"),
    "a storage that is longer": (changed(count=5), "another length"),
    "a storage that is shorter": (changed(count=7), "another length"),
    "a storage of a negative count": (changed(count=-6), "no size"),
    "a storage of an unknown type": (changed(kind="QUInt8Storage"), "not supported"),
    "a storage that is a function": (
        {"w": Raw(torch_files.call("torch._utils _rebuild_tensor_v2", "x", 0, (1,), (1,)))},
        "no storage",
    ),
    "keys that are tuples": ({"w": Raw(b"})K\x01s")}, "neither a string nor a number"),
    "an odd number of items": ({"w": Raw(b"}(K\x01u")}, "without a value"),
    "an unknown memo": ({"w": Raw(b"h\x07")}, "damaged (KeyError)"),
    "an extension": ({"w": Raw(b"\x82\x01")}, "EXT1"),
    "nothing on the stack": ({"w": Raw(b"00000")}, "damaged (IndexError)"),
    "a persistent id in text": ({"w": Raw(b"P0\n")}, "PERSID"),
    "a persistent id that is no storage": ({"w": Raw(b"K\x01Q")}, "no storage"),
    "a dictionary of no pairs": (
        {"w": Raw(torch_files.call("collections OrderedDict", [("a",)]))},
        "pairs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_TENSORS)
def test_inconsistent_tensor_or_pickle_is_refused(written, fault):
    value, words = WRONG_TENSORS[fault]
    assert words in refusal(written(zipped(value)))


def test_a_memo_of_a_huge_index_takes_no_memory(written):
    found = read_all(written(zipped({"w": GOOD, "x": Raw(b"K\x01r\xff\xff\xff\xff")})))
    assert list(found) == ["w"]


def test_a_pickle_of_too_many_instructions_is_refused(written):
    assert "instructions" in refusal(written(zipped({"w": Raw(b"N0" * 10**6 + b"N")})))


def test_a_deep_pickle_is_read_or_refused(written):
    nested = Raw(b"]" * 50_000 + b"a" * 49_999)
    assert list(read_all(written(zipped({"deep": nested, "w": GOOD})))) == ["w"]


def test_missing_storage_is_refused(written):
    hidden = Raw(torch_files.code(GOOD))
    assert "is missing" in refusal(written(zipped({"w": hidden})))


def test_big_endian_files_are_refused(written):
    content = zipped({"w": GOOD}, more=[("archive/byteorder", "big")])
    assert "big-endian" in refusal(written(content))
    assert "big-endian" in refusal(written(legacy({"w": GOOD}, little_endian=False)))


def test_files_marked_as_little_endian_are_read(written):
    content = zipped({"w": GOOD}, stem="model", more=[("model/byteorder", "little")])
    np.testing.assert_array_equal(read_all(written(content))["w"], ARRAY)


@pytest.mark.parametrize(
    "content,words",
    [
        (legacy({"w": GOOD}, version=1002), "version"),
        (legacy({"w": GOOD})[:-1], "truncated"),
        (legacy({"w": GOOD})[:100], "damaged"),
        (legacy(changed(count=5)), "past its storage"),
        (zipped({"w": GOOD})[:-30], "truncated"),
        (zipped({"w": GOOD}, more=[("archive/code/a.py", "")]), "TorchScript"),
        (zipped({"w": GOOD}, more=[("other/data.pkl", b"N.")]), "torch.save"),
        (b"\x80\x02K\x01.", "not known"),
        (zipped([1, "two"]), "not a dictionary"),
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(99), "unpack"),
        (bytes(257) + b"ustar" + bytes(250), "tar archive"),
        (b"PK\x05\x06" + bytes(18), "not known"),
        (b"hello, these are no weights", "not known"),
    ],
)
def test_files_of_other_formats_are_named(written, content, words):
    assert words in refusal(written(content))


def test_missing_file_is_refused(tmp_path):
    path = tmp_path / "absent.pth"
    with pytest.raises(UserError, match=r"absent\.pth does not exist: check the path\.$"):
        read_all(path)


@pytest.mark.parametrize("make", [zipped, legacy])
def test_mutations_are_read_or_refused(written, make):
    fuzz(written, make, rounds=100)


@pytest.mark.heavy
@pytest.mark.parametrize("make", [zipped, legacy])
def test_many_mutations_are_read_or_refused(written, make):
    fuzz(written, make, rounds=10_000)


def fuzz(written, make, rounds):
    """Flips, cuts, repeats and replaces bytes; results are no larger than the file."""
    rng = np.random.default_rng(len(make.__name__))
    arrays = {f"blocks.{i}.w": rng.normal(size=(3, 4)).astype(np.float32) for i in range(3)}
    good = make({"model": tensors_of(arrays), "epoch": 4})
    read = 0
    for _ in range(rounds):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(len(content))), int(rng.integers(1, 9))
            match rng.integers(4):
                case 0:
                    content[at] ^= 1 << int(rng.integers(8))
                case 1:
                    del content[at : at + length]
                case 2:
                    content[at:at] = content[at : at + length]
                case 3:
                    content[at : at + length] = rng.bytes(length)
        path = written(bytes(content))
        try:
            found = read_all(path)
        except UserError:
            continue
        read += 1
        assert sum(array.nbytes for array in found.values()) <= 2 * len(content)
    assert read < rounds
