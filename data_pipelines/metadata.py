"""What a data set says of itself, in its `metadata.json`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from data_pipelines import storage
from data_pipelines.schema import MAX_CLASSES
from xkd_jax.config import Config
from xkd_jax.errors import UserError

FILE = "metadata.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What holds for every record of a data set; kept in its `metadata.json`.

    Attributes:
      name: of the data set, letters, digits and underscores.
      frame_rate: frames a second; 0 where the data set has no video.
      short_side: of the stored frames, in pixels; 0 where it has no video, or frames of any size.
      sample_rate: of the audio, in Hz; 0 where the data set has no audio.
      fft: samples in a window of the spectrogram.
      hop: samples from column to column.
      mels: bands of the spectrogram.
      class_names: of the labels, in order; none where there are no labels.
      multi_label: whether records have `labels` and not `label`.
      folds: number of official folds.
      left_out: number of source files left out for each reason.
      version: of this layout.
    """

    name: str
    frame_rate: float
    short_side: int
    sample_rate: int
    fft: int
    hop: int
    mels: int
    class_names: tuple[str, ...] = ()
    multi_label: bool = False
    folds: int = 0
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    version: int = FORMAT_VERSION

    @property
    def classes(self) -> int:
        """Number of classes that labels may name; the most there can be where none are named."""
        named = len(self.class_names)
        return named if named or self.multi_label else MAX_CLASSES


def to_json(metadata: Metadata) -> str:
    """Returns the content of `metadata.json`."""
    return json.dumps(dataclasses.asdict(metadata), indent=2, sort_keys=True) + "\n"


def read(directory: str) -> Metadata:
    """Returns the metadata of the data set in a folder.

    Raises:
      UserError: the folder holds no complete data set, or one of another layout.
    """
    path = storage.join(directory, FILE)
    try:
        values = json.loads(storage.read(path))
    except FileNotFoundError:
        raise UserError(
            f"{directory or 'data.dir'} holds no complete data set (no {FILE}): make one with"
            " data_pipelines.build."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): build the data set again.") from None
    return _from_values(values, path)


def _from_values(values: dict[str, Any], path: str) -> Metadata:
    names = {field.name for field in dataclasses.fields(Metadata)}
    version = values.get("version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION or set(values) != names:
        raise UserError(
            f"{path} describes layout {version}, and this program reads layout {FORMAT_VERSION}:"
            " build the data set again."
        )
    return Metadata(**{**values, "class_names": tuple(values["class_names"])})


def check_config(metadata: Metadata, config: Config) -> None:
    """Checks that a config reads the data set as it was written.

    Raises:
      UserError: a rate or size of the config is not that of the data set; it names both.
    """
    video = {
        "video.frame_rate": (metadata.frame_rate, config.video.frame_rate),
        "data.short_side": (metadata.short_side, config.data.short_side),
    }
    audio = {
        "audio.sample_rate": (metadata.sample_rate, config.audio.sample_rate),
        "audio.fft": (metadata.fft, config.audio.fft),
        "audio.hop": (metadata.hop, config.audio.hop),
        "audio.mels": (metadata.mels, config.audio.mels),
    }
    held = (video if metadata.frame_rate else {}) | (audio if metadata.sample_rate else {})
    for key, (stored, asked) in held.items():
        if stored != asked:
            flag = key.rpartition(".")[2]
            raise UserError(
                f"The data set {metadata.name} was made with {key} {stored:g}, but the network's"
                f" config says {asked:g}: build the data set again with --{flag}={asked:g}, or"
                f" pretrain with --config.{key}={stored:g}."
            )
