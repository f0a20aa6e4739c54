"""What a record of a data set holds.

A record is a `tf.train.Example` in the layout that tensorflow-datasets reads. The writer, the
reader and the synthetic data sets all use this module and nothing else knows the layout:

| feature       | in the file                   | what                                          |
|---------------|-------------------------------|-----------------------------------------------|
| `frames`      | bytes list: a JPEG a frame    | at the set's frame rate; none: no video       |
| `log_mel`     | bytes: uint16 [columns, mels] | of the whole file, fixed point; none: no audio |
| `waveform`    | bytes: int16 [samples]        | mono, at the set's sample rate, where kept    |
| `label`       | int64                         | class of a single-label record, or -1         |
| `labels`      | int64 list                    | classes of a record of a multi-label data set |
| `label_text`  | bytes                         | the same in words (classes joined by "; ")    |
| `train_folds` | int64 list                    | official folds that train on the record       |
| `test_folds`  | int64 list                    | official folds that test on it                |
| `id`          | bytes                         | name in the official list                     |
| `path`        | bytes                         | of the source, below the source folder        |
| `start`,`end` | float                         | seconds of the source that the record covers  |

Log-mel, natural logarithm of mel power + 2^-23 and not normalised, is stored as
round((x + 16) * 2048) within [-16, 16): an error of at most 2^-12 = 0.000244.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines import tf_example
from xkd_jax.errors import UserError

LOG_MEL_FLOOR = float(np.log(2.0**-23))
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
    """One file, or one stretch of it.

    Attributes:
      id: name that no other record of the split has.
      path: the source file, relative to the source folder.
      frames: JPEG bytes of each frame.
      log_mel: uint16 [mels, columns], fixed point; see `encode_log_mel`.
      waveform: int16 [samples], mono.
      label: the class of a single-label record; -1: none.
      labels: the classes, in a multi-label data set.
      label_text: the class or classes in words.
      train_folds: official folds that train on this record.
      test_folds: official folds that test on it.
      start: where the record begins in the source, in seconds.
      end: where it ends.
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
    """Returns uint16 fixed point of a float log-mel of any shape, clipped to [-16, 16)."""
    steps = np.rint((log_mel.astype(np.float64) + _LOG_MEL_OFFSET) * _LOG_MEL_STEPS)
    return np.clip(steps, 0, 65535).astype(np.uint16)


def decode_log_mel(codes: np.ndarray) -> np.ndarray:
    """Returns float32 log-mel of uint16 fixed point."""
    return codes.astype(np.float32) / np.float32(_LOG_MEL_STEPS) - np.float32(_LOG_MEL_OFFSET)


def serialize(record: Record) -> bytes:
    """Returns a record as a `tf.train.Example`; equal records give equal bytes."""
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
    return tf_example.serialize_example(features)


def parse(data: bytes, mels: int, where: str = "A record") -> Record:
    """Returns the record of a serialized example; its frames are views into the data.

    Args:
      data: the example.
      mels: bands of the spectrogram (`Metadata.mels`).
      where: names the record in an error.

    Raises:
      UserError: the data is no example of this layout.
    """
    try:
        features = tf_example.parse_example(data)
        fields: dict[str, Any] = {n: tuple(features[n].ints().tolist()) for n in _INT_LISTS}
        fields |= {n: str(_only(features[n].bytes_list()), "utf-8") for n in _TEXTS}
        fields |= {n: _only(features[n].floats().tolist()) for n in _TIMES}
        return Record(
            frames=tuple(features["frames"].bytes_list()),
            log_mel=_array(features["log_mel"], "<u2").reshape(-1, max(mels, 1)).T,
            waveform=_array(features["waveform"], "<i2"),
            label=_only(features["label"].ints().tolist()),
            **fields,
        )
    except KeyError as error:
        fault = f"it lacks {error}"
    except ValueError as error:
        fault = str(error)
    raise UserError(
        f"{where} has not the layout of data_pipelines.schema ({fault}): build the shards with"
        " data_pipelines.build."
    )


def _array(feature: tf_example.Feature, dtype: str) -> np.ndarray:
    return np.frombuffer(_only(feature.bytes_list()), dtype)


def _only(values: Sequence[Any]) -> Any:
    (value,) = values
    return value
