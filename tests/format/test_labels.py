"""Labels that are not classes are refused when a data set is opened or a record is read."""

import dataclasses
import os

import pytest
import toy_shards
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.errors import UserError
from data_pipelines.format import dmvr, record_schema, shard_index, shard_names, shards, split_index
from data_pipelines.read import pipeline
from data_pipelines.read.dataset import open_dataset
from xkd_jax.config.pretraining import Config

MULTI = dataclasses.replace(toy_shards.METADATA, multi_label=True)
UNNAMED = dataclasses.replace(toy_shards.METADATA, class_names=())


def _records(number: int, **labels):
    """Eight records, of which one has the labels."""
    records = [toy_shards.record(i) for i in range(8)]
    if "labels" in labels:
        records = [dataclasses.replace(r, label=-1, labels=(i % 3,)) for i, r in enumerate(records)]
    records[number] = dataclasses.replace(records[number], **labels)
    return records


BAD = [
    (toy_shards.METADATA, {"label": -2}, -2),
    (toy_shards.METADATA, {"label": 3}, 3),
    (toy_shards.METADATA, {"label": 99}, 99),
    (toy_shards.METADATA, {"label": 2**32 + 1}, 2**32 + 1),
    (toy_shards.METADATA, {"label": 2**63 - 1}, 2**63 - 1),
    (toy_shards.METADATA, {"label": -(2**63)}, -(2**63)),
    (MULTI, {"labels": (0, -1)}, -1),
    (MULTI, {"labels": (3,)}, 3),
    (MULTI, {"labels": (2, 99, 1)}, 99),
    (MULTI, {"labels": (2**40 + 3,)}, 2**40 + 3),
    (MULTI, {"labels": (0, 2**32)}, 2**32),
    (UNNAMED, {"label": 2**31 - 1}, 2**31 - 1),
    (UNNAMED, {"label": 2**40 + 3}, 2**40 + 3),
    (UNNAMED, {"label": -7}, -7),
]


@pytest.mark.parametrize("metadata,labels,bad", BAD)
def test_data_set_with_invalid_labels_is_refused(tmp_path, metadata, labels, bad):
    folder = toy_shards.write(tmp_path, _records(5, **labels), metadata)
    classes = "0 to 2147483646" if metadata is UNNAMED else "0 to 2"
    with pytest.raises(UserError) as caught:
        open_dataset(toy_shards.CONFIG, folder, "train")
    message = str(caught.value)
    assert "1 of 8 records" in message
    assert "clip5, " in message
    assert "toy-train.tfrecord-00001-of-00002, record 2," in message
    assert f"the label {bad}, and the classes of the data set are {classes})" in message


@pytest.mark.parametrize("metadata,labels,bad", BAD)
@pytest.mark.parametrize("index", ["missing", "without classes"])
def test_without_index_record_with_invalid_label_is_refused(tmp_path, metadata, labels, bad, index):
    folder = toy_shards.write(tmp_path, _records(5, **labels), metadata)
    for path, size in shard_names.find_shards(folder, "train").items():
        entries = shard_index.load(path, size).entries
        os.remove(path + ".index")
        if index == "without classes":
            with open(path + ".index", "wb") as file:
                file.write(shard_index.pack(entries))
    os.remove(split_index.path_of(folder, "toy", "train"))
    dataset = open_dataset(toy_shards.CONFIG, folder, "train")
    where = rf"00001-of-00002, record 2, has the label {bad}, and the classes"
    with pytest.raises(UserError, match=where):
        dataset[6]
    for batches in (pipeline.train_batches, pipeline.eval_batches, pipeline.augmented_batches):
        with pytest.raises(UserError, match=where):
            list(zip(range(2), batches(toy_shards.CONFIG, dataset), strict=False))
    with pytest.raises(UserError, match=where):
        toy_shards.index(dataset)


@pytest.mark.parametrize(
    "metadata,records",
    [
        (toy_shards.METADATA, _records(0, label=-1)),
        (MULTI, _records(0, labels=())),
        (MULTI, _records(0, labels=(0, 1, 2))),
        (UNNAMED, _records(0, label=2**31 - 2)),
    ],
)
def test_valid_labels_are_unchanged(tmp_path, metadata, records):
    dataset = open_dataset(
        toy_shards.CONFIG, toy_shards.write(tmp_path, records, metadata), "train"
    )
    read = {r.id: r for r in map(dataset.__getitem__, range(len(dataset)))}
    for record in records:
        assert (read[record.id].label, read[record.id].labels) == (record.label, record.labels)
    rows = toy_shards.index(dataset).label.tolist()
    assert rows == [dataset[i].label for i in range(len(dataset))]


def test_unused_kind_of_labels_is_checked(tmp_path):
    records = _records(2, label=1)
    records[2] = dataclasses.replace(records[2], labels=(7,))
    with pytest.raises(UserError, match="the label 7"):
        open_dataset(toy_shards.CONFIG, toy_shards.write(tmp_path, records), "train")


def test_both_splits_are_checked(tmp_path):
    folder = toy_shards.write(tmp_path, _records(0), more=_records(1, label=9))
    assert len(open_dataset(toy_shards.CONFIG, folder, "train")) == 8
    with pytest.raises(UserError, match="1 of 16 records"):
        open_dataset(toy_shards.CONFIG, folder, "train+more")


def test_index_with_wrong_number_of_classes_is_named(tmp_path):
    folder = toy_shards.write(tmp_path, _records(0))
    found = shard_names.find_shards(folder, "train")
    path, size = next(iter(found.items()))
    with open(path + ".index", "wb") as file:
        file.write(shard_index.pack(shard_index.load(path, size).entries, 99))
    whole = split_index.write(folder, "toy", "train", list(found.values()))
    with pytest.raises(UserError, match=r"/toy-train\.index states a wrong number .*delete it"):
        open_dataset(toy_shards.CONFIG, folder, "train")
    os.remove(split_index.path_of(folder, "toy", "train"))
    with pytest.raises(UserError, match=r"00000-of-00002\.index states a wrong number .*delete it"):
        open_dataset(toy_shards.CONFIG, folder, "train")
    os.remove(path + ".index")
    assert open_dataset(toy_shards.CONFIG, folder, "train").digest == whole.digest


def test_index_of_other_records_has_no_number_of_classes(tmp_path):
    good = record_schema.serialize(toy_shards.record(1))
    for records in ([b"no record"], [good, b"\x0a\xff"], [good, b""]):
        path = str(tmp_path / "shard")
        written = shards.write_shard(path, records)
        assert shard_index.load(path, written.size).classes is None
    written = shards.write_shard(path, [good, good])
    assert shard_index.load(path, written.size).classes == 2


@pytest.mark.parametrize("labels", [[-2], [2**31], [2**40 + 3], [4, -1], [4, 2**35]])
def test_labels_of_dmvr_shards_are_checked(labels):
    example = tf_example_pb2.SequenceExample()
    frames = example.feature_lists.feature_list["image/encoded"]
    frames.feature.add().bytes_list.value.append(toy_shards.record(0, frames=1).frames[0])
    example.context.feature["image/frame_rate"].float_list.value.append(1.0)
    example.context.feature["clip/label/index"].int64_list.value.extend(labels)
    where = "shard, record 3,"
    with pytest.raises(UserError, match=rf"{where} has the label .*: correct clip/label/index"):
        dmvr.DmvrParser(Config())(example.SerializeToString(), where)
