"""Comparison with protobuf's reading and writing of the same messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.format import tf_example
from data_pipelines.format.tf_example import WireError

texts = st.text(max_size=8)
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32, allow_nan=False)
features = st.dictionaries(
    texts,
    st.one_of(
        st.lists(st.binary(max_size=300), max_size=4),
        st.lists(int64s, max_size=5).map(lambda v: np.array(v, np.int64)),
        st.lists(floats, max_size=5).map(lambda v: np.array(v, np.float32)),
    ),
    max_size=4,
)
FAST = settings(max_examples=200, deadline=None, derandomize=True)


def _fill(feature, values) -> None:
    if not isinstance(values, np.ndarray):
        kind = feature.bytes_list
    else:
        kind = feature.float_list if values.dtype == np.float32 else feature.int64_list
    kind.SetInParent()
    kind.value.extend(values if isinstance(values, list) else values.tolist())


def _assert_equal(feature: tf_example.Feature, values) -> None:
    if not isinstance(values, np.ndarray):
        assert [bytes(v) for v in feature.bytes_list()] == values
    elif values.dtype == np.float32:
        np.testing.assert_array_equal(feature.floats(), values)
    else:
        np.testing.assert_array_equal(feature.ints(), values)


@FAST
@given(features)
def test_writes_what_protobuf_writes(values):
    example = tf_example_pb2.Example()
    example.features.SetInParent()
    for name, value in values.items():
        _fill(example.features.feature[name], value)
    theirs = tf_example_pb2.Example.FromString(tf_example.serialize_example(values))
    assert theirs == example
    again = dict(reversed(values.items()))
    assert tf_example.serialize_example(again) == tf_example.serialize_example(values)


@FAST
@given(features)
def test_reads_what_protobuf_writes(values):
    example = tf_example_pb2.Example()
    for name, value in values.items():
        _fill(example.features.feature[name], value)
    found = tf_example.parse_example(example.SerializeToString())
    assert found.keys() == values.keys()
    for name, value in values.items():
        _assert_equal(found[name], value)


@FAST
@given(features, st.dictionaries(texts, st.lists(features.map(lambda f: list(f.values())))))
def test_reads_sequence_examples(context, lists):
    example = tf_example_pb2.SequenceExample()
    for name, value in context.items():
        _fill(example.context.feature[name], value)
    flat = {name: [v for step in steps for v in step] for name, steps in lists.items()}
    for name, steps in flat.items():
        example.feature_lists.feature_list[name].SetInParent()
        for value in steps:
            _fill(example.feature_lists.feature_list[name].feature.add(), value)
    found, found_lists = tf_example.parse_sequence_example(example.SerializeToString())
    assert found.keys() == context.keys()
    assert found_lists.keys() == flat.keys()
    for name, steps in flat.items():
        for step, value in zip(found_lists[name], steps, strict=True):
            _assert_equal(step, value)


def test_numbers_that_are_not_packed_are_read():
    # Feature { int64_list { value: 5, value: -1 } }, as proto2 writers without [packed] have it.
    minus_one = b"\xff" * 9 + b"\x01"
    inner = b"\x08\x05\x08" + minus_one
    feature = tf_example.Feature(memoryview(b"\x1a" + bytes([len(inner)]) + inner))
    assert feature.ints().tolist() == [5, -1]
    inner = b"".join(b"\x0d" + np.float32(v).tobytes() for v in (1.5, -2.0))
    feature = tf_example.Feature(memoryview(b"\x12" + bytes([len(inner)]) + inner))
    assert feature.floats().tolist() == [1.5, -2.0]


def test_floats_are_bitwise_equal():
    bits = np.array([0x7FA00001, 0xFFFFFFFF, 1], np.uint32)
    data = tf_example.serialize_example({"x": bits.view(np.float32)})
    found = tf_example.parse_example(data)["x"].floats()
    np.testing.assert_array_equal(found.view(np.uint32), bits)


def test_accessor_of_another_kind_returns_an_empty_array():
    feature = tf_example.parse_example(tf_example.serialize_example({"x": [b"a"]}))["x"]
    assert feature.ints().size == feature.floats().size == 0


def test_byte_strings_are_views():
    data = tf_example.serialize_example({"x": [b"abc"]})
    (view,) = tf_example.parse_example(data)["x"].bytes_list()
    assert view.obj is data


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x80" * 11, b"\x0d\x00", b"\x0a\x80"]
)
def test_broken_messages_are_refused(data):
    with pytest.raises(WireError):
        tf_example.parse_example(data)


@pytest.mark.parametrize("packed", [False, True])
def test_varint_is_truncated_to_64_bits(packed):
    number = b"\xff" * 9 + b"\x7f"
    value = b"\x0a\x0a" + number if packed else b"\x08" + number
    feature = tf_example.Feature(memoryview(b"\x1a" + bytes([len(value)]) + value))
    assert feature.ints().tolist() == [-1]
