"""The metadata of a data set, in its `metadata.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from data_pipelines import json_file
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.format.record_schema import MAX_CLASSES, MAX_INTS
from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality

FILE = "metadata.json"
FORMAT_VERSION = 1
_CHECKSUM = "checksum"
# Permitted names of data sets and splits, which are parts of file names.
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Properties that all records of a data set have; stored in `metadata.json` with a checksum.

    Attributes:
      name: of the data set, letters, digits and underscores.
      frame_rate: frames per second; 0 without video.
      short_side: of the stored frames, in pixels; 0 without video or with frames of any size.
      sample_rate: of the audio, in Hz; 0 without audio.
      fft: samples in a window of the spectrogram.
      hop: samples between columns of the spectrogram.
      mels: bands of the spectrogram.
      class_names: of the labels, in order; empty without labels.
      multi_label: whether records have `labels` in place of `label`.
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
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of the records: those with a rate above 0."""
        rates = {"video": self.frame_rate, "audio": self.sample_rate}
        return tuple(m for m in MODALITIES if rates[m] > 0)

    @property
    def classes(self) -> int:
        """Number of classes; without class names, the largest permitted one."""
        named = len(self.class_names)
        return named if named or self.multi_label else MAX_CLASSES


def to_json(metadata: Metadata) -> str:
    """Returns the content of `metadata.json`."""
    values = dataclasses.asdict(metadata)
    return json.dumps({**values, _CHECKSUM: _checksum(values)}, indent=2, sort_keys=True) + "\n"


def _checksum(values: dict[str, Any]) -> str:
    plain = json.dumps(values, sort_keys=True).encode()
    return hashlib.blake2b(plain, digest_size=8).hexdigest()


def is_described(directory: str) -> bool:
    """Whether a folder has the metadata of a data set; shards in the DMVR schema have none.

    Raises:
      UserError: there is no such folder.
    """
    if storage.exists(storage.join(directory, FILE)):
        return True
    if not storage.can_list(directory):
        raise _not_complete(directory)
    storage.sizes(directory)  # raises without a folder
    return False


def _not_complete(directory: str) -> UserError:
    return UserError(
        f"{directory or 'data.dir'} has no complete data set (no {FILE}): build one with"
        " data_pipelines.build."
    )


def read(directory: str) -> Metadata:
    """Returns the metadata of the data set in a folder.

    Files of older builds, without a checksum, are accepted.

    Raises:
      UserError: the folder has no complete data set or another layout version, or the file is
        damaged.
    """
    path = storage.join(directory, FILE)
    try:
        return _from_values(json_file.read(path), path)
    except FileNotFoundError:
        raise _not_complete(directory) from None
    except json_file.ContentError as error:
        raise UserError(
            f"{path} is damaged ({error}): copy it again, or build the data set again."
        ) from None


def _from_values(values: Any, path: str) -> Metadata:
    version = values.get("version") if isinstance(values, dict) else FORMAT_VERSION
    if type(version) is int and version != FORMAT_VERSION:
        raise UserError(
            f"{path} has layout version {json_file.shown(version)}, and this program reads version"
            f" {FORMAT_VERSION}: build the data set again."
        )
    if isinstance(values, dict) and _CHECKSUM in values:
        stored = values.pop(_CHECKSUM)
        if stored != _checksum(values):
            raise json_file.ContentError("its checksum is wrong")
    metadata = json_file.build(Metadata, values)
    for field in dataclasses.fields(Metadata):  # fields with defaults too
        if field.name not in values:
            raise json_file.ContentError(f"it lacks {field.name}")
    if fault := _fault(metadata):
        raise json_file.ContentError(fault)
    return metadata


def _fault(metadata: Metadata) -> str:
    """Returns a description of the first invalid value, or ""."""
    video, audio = metadata.frame_rate > 0, metadata.sample_rate > 0
    ranges = {
        "frame_rate": (0, 1e6),
        "short_side": (1 if video else 0, 65500),
        "sample_rate": (0, 1e7),
        **dict.fromkeys(("fft", "hop", "mels"), (1 if audio else 0, 2**20)),
        "folds": (0, MAX_INTS),
    }
    for name, (low, high) in ranges.items():
        if not low <= (value := getattr(metadata, name)) <= high:
            return f"{name} is {json_file.shown(value)}, not {low:g} to {high:g}"
    if not NAME.fullmatch(metadata.name):
        return f"name is {json_file.shown(metadata.name)}, not lower-case letters, digits and _"
    counts = metadata.left_out.values()
    return "left_out counts below 0" if any(count < 0 for count in counts) else ""


def check_modalities(metadata: Metadata, modalities: Sequence[Modality], directory: str) -> None:
    """Checks that a data set has the modalities that a run reads.

    Args:
      metadata: of the data set.
      modalities: the ones to read.
      directory: of the data set, for the message.

    Raises:
      UserError: it lacks one of them.
    """
    lacking = [m for m in modalities if m not in metadata.modalities]
    if lacking:
        wanted, held = ",".join(modalities), ",".join(metadata.modalities)
        remedy = (
            f", or train on one modality with the variant :reconstruction_{held} of the config"
            if len(metadata.modalities) == 1
            else ""
        )
        raise UserError(
            f"The data set {metadata.name} in {directory} has no {' and no '.join(lacking)}: build"
            f" it again with --modalities={wanted} from files that have them{remedy}."
        )


def check_config(
    metadata: Metadata, config: LoaderConfig, directory: str, *, fixed: bool = False
) -> None:
    """Checks that a config has the rates and sizes of the modalities that it reads.

    Args:
      metadata: of the data set.
      config: with rates and sizes.
      directory: of the data set, for the message.
      fixed: whether the config is that of trained encoders, which take no other values; of frames
        with a higher rate, some are used (`clips.at_frame_rate`).

    Raises:
      UserError: rates or sizes differ; the message has all of them, and the command that builds
        shards with those of the config.
    """
    settings: dict[Modality, dict[str, tuple[float, float]]] = {
        "video": {
            "video.frame_rate": (metadata.frame_rate, config.video.frame_rate),
            "data.short_side": (metadata.short_side, config.data.short_side),
        },
        "audio": {
            "audio.sample_rate": (metadata.sample_rate, config.audio.sample_rate),
            "audio.fft": (metadata.fft, config.audio.fft),
            "audio.hop": (metadata.hop, config.audio.hop),
            "audio.mels": (metadata.mels, config.audio.mels),
        },
    }
    kaldi = config.audio.spectrogram == "kaldi"
    if kaldi:  # made from waveforms
        settings["audio"] = {"audio.sample_rate": settings["audio"]["audio.sample_rate"]}
    read = [m for m in metadata.modalities if m in config.modalities]
    held = {key: values for m in read for key, values in settings[m].items()}
    other = {key: values for key, values in held.items() if values[0] != values[1]}
    if fixed and metadata.frame_rate > config.video.frame_rate:
        other.pop("video.frame_rate", None)
    if not other:
        return
    differences = ", ".join(f"{key} {a:.9g}, not {b:.9g}" for key, (a, b) in other.items())
    options = [f"--{key.rpartition('.')[2]}={asked:.9g}" for key, (_, asked) in held.items()]
    if kaldi and "audio" in read:
        options.append("--waveform")
    if set(read) != set(MODALITIES):
        options.append(f"--modalities={','.join(read)}")
    remedy = (
        "build other shards by python -m data_pipelines.build with the --dataset and --source of"
        f" these, another --output, and {' '.join(options)}"
    )
    if not fixed:
        flags = " ".join(f"--config.{key}={was:.9g}" for key, (was, _) in other.items())
        remedy = f"give {flags}, or {remedy}"
    owner = "the evaluated encoders" if fixed else "the config"
    raise UserError(
        f"The data set {metadata.name} in {directory} does not fit {owner}"
        f" ({differences}): {remedy}."
    )
