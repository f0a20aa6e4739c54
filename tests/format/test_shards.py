import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from stored_files import digests

from data_pipelines.errors import UserError
from data_pipelines.format import metadata as metadata_lib
from data_pipelines.format import record_schema, record_source, shard_names, shards, storage
from data_pipelines.format.record_schema import Record

METADATA = metadata_lib.Metadata(
    name="toy", frame_rate=8.0, short_side=16, sample_rate=16000, fft=1024, hop=143, mels=4,
    class_names=("cat", "dog"),
)  # fmt: skip


def _records(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 255, (3, 16, 24, 3), np.uint8)
        yield Record(
            id=f"clip{i}",
            path=f"cat/clip{i}.mp4",
            frames=tuple(simplejpeg.encode_jpeg(p) for p in pixels),
            log_mel=rng.integers(0, 65536, (4, 6), np.uint16),
            label=i % 2,
            label_text=METADATA.class_names[i % 2],
            end=0.375,
        )


def test_dataset_reads_back(tmp_path):
    seen: list[int] = []
    splits = {"train": _records(7), "test": _records(2, 1)}
    shards.write_dataset(str(tmp_path), METADATA, splits, shards=3, progress=seen.append)
    assert seen == list(range(1, 10))
    assert metadata_lib.read(str(tmp_path)) == METADATA
    source = record_source.TFRecordSource(shard_names.find_shards(str(tmp_path), "train"))
    assert source.shard_lengths == [3, 2, 2]
    read = [record_schema.parse(source[i], 4).id for i in range(7)]
    assert read == ["clip0", "clip3", "clip6", "clip1", "clip4", "clip2", "clip5"]


def test_same_records_give_same_bytes(tmp_path):
    for name in ("a", "b"):
        shards.write_dataset(str(tmp_path / name), METADATA, {"train": _records(5)}, shards=2)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_finished_folder_is_not_overwritten(tmp_path):
    shards.write_dataset(str(tmp_path), METADATA, {"train": _records(1)}, shards=1)
    before = digests(tmp_path)
    with pytest.raises(UserError, match="has a complete data set already"):
        shards.write_dataset(str(tmp_path), METADATA, {"train": _records(2)}, shards=1)
    assert digests(tmp_path) == before


def test_interrupted_data_set_is_not_complete(tmp_path):
    def records():
        yield from _records(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_dataset(str(tmp_path), METADATA, {"train": records()})
    with pytest.raises(UserError, match="no complete data set"):
        metadata_lib.read(str(tmp_path))
    shards.write_dataset(str(tmp_path), METADATA, {"train": _records(2)}, shards=1)


@pytest.mark.parametrize("name", ["Kinetics", "a-b", "", "a/b"])
def test_invalid_names_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="can't name"):
        shards.write_dataset(str(tmp_path), dataclasses.replace(METADATA, name=name), {})


def test_writes_to_url():
    folder = "memory://written"
    shards.write_dataset(folder, METADATA, {"train": _records(3)}, shards=2)
    assert metadata_lib.read(folder) == METADATA
    assert "dataset_info.json" in storage.sizes(folder)
    assert len(record_source.TFRecordSource(shard_names.find_shards(folder, "train"))) == 3


_OPEN_WITH_TFDS = """
import json, sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
info = builder.info
with open(info.splits["train"].filepaths[0], "rb") as file:
    file.seek(8)
    file.read(4)
    length = int.from_bytes(open(info.splits["train"].filepaths[0], "rb").read(8), "little")
    data = file.read(length)
example = info.features.deserialize_example_np(data)
print(json.dumps({
    "name": info.full_name,
    "splits": {k: [v.num_examples, v.shard_lengths] for k, v in info.splits.items()},
    "names": info.features["label"].names,
    "files": [str(p.name) for p in info.splits["train"].filepaths],
    "frames": [len(example["frames"]), list(example["frames"][0].shape)],
    "log_mel": example["log_mel"].tolist(),
    "dtype": str(example["log_mel"].dtype),
    "waveform": list(example["waveform"].shape),
    "label": int(example["label"]),
    "id": example["id"].decode(),
    "tensorflow": "tensorflow" in sys.modules,
}))
"""


def test_tensorflow_datasets_opens_it(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    shards.write_dataset(
        str(tmp_path), METADATA, {"train": _records(3), "test": _records(1)}, shards=2
    )
    run = subprocess.run(
        [sys.executable, "-c", _OPEN_WITH_TFDS, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    first = next(_records(1))
    assert found["name"] == "toy/1.0.0"
    assert found["splits"] == {"test": [1, [1, 0]], "train": [3, [2, 1]]}
    assert found["names"] == ["cat", "dog"]
    assert found["files"] == [
        "toy-train.tfrecord-00000-of-00002",
        "toy-train.tfrecord-00001-of-00002",
    ]
    assert found["frames"] == [3, [16, 24, 3]]
    assert np.array_equal(found["log_mel"], first.log_mel.T)
    assert (found["dtype"], found["waveform"]) == ("uint16", [0])
    assert (found["label"], found["id"]) == (0, "clip0")
    assert not found["tensorflow"]
