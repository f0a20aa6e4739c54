"""tf.train.Example and tf.train.SequenceExample without TensorFlow.

The messages are built at run time in a pool of their own. Importing the copy that
tensorflow-datasets has would cost every loader process half a second; a private pool lets both,
and TensorFlow's own, live in one process. Field numbers: tensorflow/core/example/*.proto.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
# In the order of their numbers in Feature.
_LISTS = {
    "bytes_list": _FIELD.TYPE_BYTES,
    "float_list": _FIELD.TYPE_FLOAT,
    "int64_list": _FIELD.TYPE_INT64,
}


def example() -> Any:
    """Returns an empty `Example`."""
    return _message_class("Example")()


def parse_example(data: bytes) -> Any:
    """Returns the `Example` that was serialized as `data`."""
    return _message_class("Example").FromString(data)


def sequence_example() -> Any:
    """Returns an empty `SequenceExample`."""
    return _message_class("SequenceExample")()


def parse_sequence_example(data: bytes) -> Any:
    """Returns the `SequenceExample` that was serialized as `data`."""
    return _message_class("SequenceExample").FromString(data)


@functools.cache
def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"xkd.{name}"))


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="xkd.proto", package="xkd", syntax="proto3")
    for name, kind in _LISTS.items():
        message = file.message_type.add(name=_list_type(name))
        message.field.add(name="value", number=1, type=kind, label=_FIELD.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(_LISTS, 1):
        _add_message(feature, name, number, _list_type(name), oneof_index=0)
    _add_map(file.message_type.add(name="Features"), "feature", "Feature")
    _add_message(file.message_type.add(name="Example"), "features", 1, "Features")
    feature_list = file.message_type.add(name="FeatureList")
    _add_message(feature_list, "feature", 1, "Feature", label=_FIELD.LABEL_REPEATED)
    _add_map(file.message_type.add(name="FeatureLists"), "feature_list", "FeatureList")
    sequence = file.message_type.add(name="SequenceExample")
    _add_message(sequence, "context", 1, "Features")
    _add_message(sequence, "feature_lists", 2, "FeatureLists")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _list_type(name: str) -> str:
    return name.title().replace("_", "")


def _add_message(
    parent: Any,
    name: str,
    number: int,
    kind: str,
    label: Any = _FIELD.LABEL_OPTIONAL,
    **options: int,
) -> None:
    parent.field.add(
        name=name,
        number=number,
        type=_FIELD.TYPE_MESSAGE,
        type_name=f".xkd.{kind}",
        label=label,
        **options,
    )


def _add_map(parent: Any, name: str, kind: str) -> None:
    """Adds `map<string, kind> name = 1`, as the entry message that protobuf makes of it."""
    entry = parent.nested_type.add(name=f"{_list_type(name)}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    _add_message(entry, "value", 2, kind)
    kind_of_entry = f"{parent.name}.{entry.name}"
    _add_message(parent, name, 1, kind_of_entry, label=_FIELD.LABEL_REPEATED)
