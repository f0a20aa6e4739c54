"""The schema of a record: its features, their encoding and their bounds.

A record is a `tf.train.Example` in the layout that tensorflow-datasets reads. The writer, the
reader and the synthetic data sets use this module, which alone defines the layout:

| feature       | in the file                   | what                                          |
|---------------|-------------------------------|-----------------------------------------------|
| `frames`      | bytes list: one JPEG a frame  | at the set's frame rate; empty: no video      |
| `log_mel`     | bytes: uint16 [columns, mels] | of the whole file, fixed point; empty: no audio |
| `waveform`    | bytes: int16 [samples]        | mono, at the set's sample rate, where kept    |
| `label`       | int64                         | class of a single-label record, or -1         |
| `labels`      | int64 list                    | classes of a record of a multi-label data set |
| `label_text`  | bytes                         | the same in words (classes joined by "; ")    |
| `train_folds` | int64 list                    | official folds that train on the record       |
| `test_folds`  | int64 list                    | official folds that test on it                |
| `id`          | bytes                         | name in the official list                     |
| `path`        | bytes                         | of the source, below the source folder        |
| `start`,`end` | float                         | seconds of the source that the record covers  |

Log-mel, natural logarithm of mel power + 2^-23 and not normalized, is stored as
round((x + 16) * 2048) within [-16, 16): an error of at most 2^-12 = 0.000244.

The `MAX_` constants bound a record, and `frame_bounds` its frames. They are far above the values of
real records, and prevent a few bytes of a damaged or hostile record from costing gigabytes or
minutes. Writer and reader check the same bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import tf_example

LOG_MEL_FLOOR = float(np.log(2.0**-23))
# Limits of a record.
MAX_RECORD_BYTES = 2**30  # half of the limit of protobuf
MAX_FRAMES = 2**17  # 4.5 hours at 8 frames per second
MAX_COLUMNS = 2**22  # 10 hours at 16 kHz and hop 143
MAX_SAMPLES = 2**27  # 2.3 hours at 16 kHz
MAX_INTS = 2**12  # number of labels, and of folds
MAX_TEXT = 2**16  # bytes of a text
# Classes of a data set: labels are int32 on the device.
MAX_CLASSES = 2**31 - 1

_LOG_MEL_OFFSET = 16.0
_LOG_MEL_STEPS = 2048.0
_INT_LISTS = ("labels", "train_folds", "test_folds")
_TEXTS = ("label_text", "id", "path")
_TIMES = ("start", "end")


def _no_log_mel() -> np.ndarray:
    return np.zeros((0, 0), np.uint16)


def _no_waveform() -> np.ndarray:
    return np.zeros(0, np.int16)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One example of a data set: a source file, or a part of it.

    Attributes:
      id: name, unique in the split.
      path: the source file, relative to the source folder.
      frames: JPEG bytes of each frame.
      log_mel: uint16 [mels, columns], fixed point; see `encode_log_mel`.
      waveform: int16 [samples], mono.
      label: the class of a single-label record; -1: none.
      labels: the classes of a record of a multi-label data set.
      label_text: the class or classes in words.
      train_folds: official folds that train on this record.
      test_folds: official folds that test on it.
      start: of the record in the source, in seconds.
      end: of the record in the source, in seconds.
    """

    id: str
    path: str = ""
    frames: Sequence[bytes | memoryview] = ()
    log_mel: np.ndarray = dataclasses.field(default_factory=_no_log_mel)
    waveform: np.ndarray = dataclasses.field(default_factory=_no_waveform)
    label: int = -1
    labels: Sequence[int] = ()
    label_text: str = ""
    train_folds: Sequence[int] = ()
    test_folds: Sequence[int] = ()
    start: float = 0.0
    end: float = 0.0


def encode_log_mel(log_mel: np.ndarray) -> np.ndarray:
    """Converts a float log-mel of any shape to uint16 fixed point, clipped to [-16, 16)."""
    steps = np.rint((log_mel.astype(np.float64) + _LOG_MEL_OFFSET) * _LOG_MEL_STEPS)
    return np.clip(steps, 0, 65535).astype(np.uint16)


def decode_log_mel(codes: np.ndarray) -> np.ndarray:
    """Converts uint16 fixed point of any shape to a float32 log-mel."""
    return codes.astype(np.float32) / np.float32(_LOG_MEL_STEPS) - np.float32(_LOG_MEL_OFFSET)


def encode_waveform(waveform: np.ndarray) -> np.ndarray:
    """Converts float samples of full scale 1 to int16, clipped."""
    return np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)


# The fixed point of silence.
SILENCE = int(encode_log_mel(np.array(LOG_MEL_FLOOR)))


def label_fault(label: int, labels: Sequence[int], classes: int) -> str:
    """Returns a description of the first label that is not a class, or "".

    Args:
      label: of a single-label record; -1: none.
      labels: of a record of a multi-label data set.
      classes: of the data set; see `Metadata.classes`.
    """
    bad = [] if -1 <= label < classes else [label]
    bad += [number for number in labels if not 0 <= number < classes]
    if not bad:
        return ""
    held = f"0 to {classes - 1}" if classes else "none"
    return f"the label {bad[0]}, and the classes of the data set are {held}"


def size_fault(record: Record) -> str:
    """Returns a description of the first exceeded bound, or ""."""
    counts = {
        "frames": (len(record.frames), MAX_FRAMES),
        "columns of its spectrogram": (record.log_mel.shape[1], MAX_COLUMNS),
        "samples": (record.waveform.size, MAX_SAMPLES),
        **{name: (len(getattr(record, name)), MAX_INTS) for name in _INT_LISTS},
        **{f"characters of {name}": (len(getattr(record, name)), MAX_TEXT) for name in _TEXTS},
    }
    for what, (count, bound) in counts.items():
        if count > bound:
            return f"it has {count:,} {what}, more than {bound:,}"
    if not all(math.isfinite(getattr(record, name)) for name in _TIMES):
        return f"it lasts from {record.start} to {record.end} s"
    return ""


def serialize(record: Record) -> bytes:
    """Returns a record as a `tf.train.Example`; equal records give equal bytes.

    Raises:
      ValueError: the record exceeds a bound, so `parse` would refuse it.
    """
    if fault := size_fault(record):
        raise ValueError(f"{fault}: cut it into shorter records (--max_seconds)")
    log_mel = np.ascontiguousarray(record.log_mel.T, dtype="<u2")
    features: dict[str, Sequence[bytes | memoryview] | np.ndarray] = {
        "frames": record.frames,
        "log_mel": [log_mel.tobytes()],
        "waveform": [record.waveform.astype("<i2").tobytes()],
        "label": np.array([record.label], np.int64),
    }
    features |= {name: np.array(getattr(record, name), np.int64) for name in _INT_LISTS}
    features |= {name: [getattr(record, name).encode()] for name in _TEXTS}
    features |= {name: np.array([getattr(record, name)], np.float32) for name in _TIMES}
    data = tf_example.serialize_example(features)
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(
            f"it has {len(data):,} bytes, more than {MAX_RECORD_BYTES:,}: cut it (--max_seconds)"
        )
    return data


def classes_needed(data: bytes) -> int | None:
    """Returns the number of classes that the labels of a serialized record require.

    It is MAX_CLASSES + 1 if a label is invalid, and None if the data is not a record.
    """
    try:
        features = tf_example.parse_example(data)
        label = _only(features["label"].ints().tolist())
        labels = features["labels"].ints().tolist()
    except (KeyError, ValueError):
        return None
    wrong = label_fault(label, labels, MAX_CLASSES)
    return MAX_CLASSES + 1 if wrong else max([label, *labels]) + 1


def parse(
    data: bytes | memoryview, mels: int, where: str = "A record", classes: int | None = MAX_CLASSES
) -> Record:
    """Returns the record of a serialized example; its frames are views into the data.

    Args:
      data: the example.
      mels: bands of the spectrogram (`Metadata.mels`).
      where: name of the record in error messages.
      classes: of the data set (`Metadata.classes`); None: labels are not checked.

    Raises:
      UserError: the data is not an example of this layout, or a label is not a class.
    """
    try:
        record = _parsed(tf_example.parse_example(data), mels)
        fault = size_fault(record)
    except KeyError as error:
        fault = f"it lacks {error}"
    except ValueError as error:
        fault = str(error)
    if fault:
        raise UserError(
            f"{where} does not have the layout of data_pipelines.format.record_schema ({fault}):"
            " build the shards with data_pipelines.build."
        )
    fault = "" if classes is None else label_fault(record.label, record.labels, classes)
    if fault:
        raise UserError(f"{where} has {fault}: build the data set again from the official lists.")
    return record


def _parsed(features: dict[str, tf_example.Feature], mels: int) -> Record:
    """Returns the record of an example's features.

    Raises:
      KeyError: a feature is missing.
      ValueError: a feature has another type or length.
    """
    fields: dict[str, Any] = {n: tuple(features[n].ints().tolist()) for n in _INT_LISTS}
    fields |= {n: text(_only(features[n].bytes_list())) for n in _TEXTS}
    fields |= {n: _only(features[n].floats().tolist()) for n in _TIMES}
    return Record(
        frames=tuple(features["frames"].bytes_list()),
        log_mel=_array(features["log_mel"], "<u2").reshape(-1, max(mels, 1)).T,
        waveform=_array(features["waveform"], "<i2"),
        label=_only(features["label"].ints().tolist()),
        **fields,
    )


def text(value: memoryview, errors: str = "strict") -> str:
    """Decodes a text of a record; `errors` is that of `bytes.decode`.

    Raises:
      ValueError: the text is too long, or not UTF-8 with `errors` "strict".
    """
    if len(value) > MAX_TEXT:
        raise ValueError(f"it has a text of {len(value):,} bytes, more than {MAX_TEXT:,}")
    return str(value, "utf-8", errors)


def _array(feature: tf_example.Feature, dtype: str) -> np.ndarray:
    return np.frombuffer(_only(feature.bytes_list()), dtype)


def _only(values: Sequence[Any]) -> Any:
    (value,) = values
    return value
