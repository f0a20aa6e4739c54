"""TensorFlow reads shards of this project: a test of the extra `tensorflow`.

In a separate process, as nothing else in the project imports TensorFlow.
"""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
import toy_shards

from data_pipelines.format import shard_names

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="the extra 'tensorflow' is not installed",
)

_READ = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

folder, damaged = sys.argv[1:]
builder = tfds.builder_from_directory(folder)
examples = {}
for split in builder.info.splits:
    for e in tfds.as_numpy(builder.as_dataset(split=split)):
        examples[e["id"].decode()] = {
            "frames": np.asarray(e["frames"])[:, :1, :1, :1].ravel().tolist(),
            "shape": list(np.shape(e["frames"])),
            "log_mel": e["log_mel"].tolist(),
            "label": int(e["label"]),
            "text": e["label_text"].decode(),
            "train_folds": e["train_folds"].tolist(),
        }
plain = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(folder + "/*-of-00002")))
try:
    list(tf.data.TFRecordDataset([damaged]))
    error = ""
except tf.errors.DataLossError as caught:
    error = "DataLossError"
print("RESULT" + json.dumps({
    "examples": examples, "records": sum(1 for _ in plain), "error": error,
    "names": builder.info.features["label"].names,
}))
"""


def test_tensorflow_reads_what_was_written(tmp_path):
    records = [toy_shards.record(i, frames=3 + i) for i in range(3)]
    records.append(toy_shards.record(3, frames=0, columns=5))  # sound alone
    folder = toy_shards.write(tmp_path / "toy", records, test=[toy_shards.record(4, columns=0)])
    shard = next(iter(shard_names.find_shards(folder, "train")))
    content = bytearray(open(shard, "rb").read())  # noqa: SIM115
    content[100] ^= 1
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", _READ, folder, str(damaged)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.split("RESULT")[1])
    assert found["records"] == 5
    assert found["error"] == "DataLossError"
    assert found["names"] == ["a", "b", "c"]
    for i in range(3):
        example = found["examples"][f"clip{i}"]
        decoded = [simplejpeg.decode_jpeg(f)[0, 0, 0] for f in records[i].frames]
        np.testing.assert_allclose(example["frames"], decoded, atol=1)
        assert example["shape"] == [3 + i, 16, 24, 3]
        assert example["log_mel"] == records[i].log_mel.T.tolist()
        assert (example["label"], example["text"]) == (i, "abc"[i])
        assert example["train_folds"] == []
    assert found["examples"]["clip3"]["shape"][0] == 0
    assert found["examples"]["clip4"]["log_mel"] == []
