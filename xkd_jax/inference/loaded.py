"""Trained encoders as they are read, before they are placed on devices."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, DataConfig, Modality
from xkd_jax.config.architecture import ComputeDtype
from xkd_jax.inference.formats.format import EncoderWeights
from xkd_jax.inference.tensor_names import encoder_entries, tensors_of

# Dtypes of activations.
DTYPES: tuple[ComputeDtype, ...] = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
      source: the path, or paths, that were loaded.
      format: name of the recognized format.
      network: student or teacher; empty: unknown.
      step: step of a run's checkpoint.
      license: license of the weights; empty: the run's owner decides.
      family: name of the method.
    """

    source: str
    format: str
    network: str = ""
    step: int | None = None
    license: str = ""
    family: str = "XKD"

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        network = f", {self.network}" if self.network else ""
        return f"{self.source} ({self.format}{network}{step})"


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Encoders of one or two modalities.

    Attributes:
      encoders: by modality, in the order of `MODALITIES`.
      origin: of the weights.
      compute_dtype: one of `DTYPES`, which they were exported or trained with.
      short_side: of frames in pixels, which files are decoded to.
    """

    encoders: Mapping[Modality, EncoderWeights]
    origin: Origin
    compute_dtype: ComputeDtype = "float32"
    short_side: int = DataConfig().short_side

    def only(self, modalities: Sequence[Modality], remedy: str) -> Loaded:
        """Returns the encoders of some modalities.

        Args:
          modalities: those that are kept.
          remedy: end of the message, what to do if one is missing.

        Raises:
          UserError: one is missing.
        """
        if lacking := [m for m in modalities if m not in self.encoders]:
            raise UserError(
                f"{self.origin} has no encoder of {', '.join(lacking)}: it has"
                f" {', '.join(self.encoders)}, so {remedy}."
            )
        kept = {m: self.encoders[m] for m in MODALITIES if m in modalities}
        return dataclasses.replace(self, encoders=kept)

    @property
    def digest(self) -> str:
        """Digest of the encoders' configs and weights; equal digests give equal features."""
        found = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(tensors(self.encoders).items()):
            found.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
            found.update(np.ascontiguousarray(tensor).tobytes())
        configs = {m: weights.config for m, weights in self.encoders.items()}
        found.update(repr(sorted(configs.items())).encode())
        return found.hexdigest()


def tensors(encoders: Mapping[Modality, EncoderWeights]) -> dict[str, np.ndarray]:
    """Returns {`MODALITY.` and a name of `tensor_names`: float32 array} of encoders."""
    return {
        f"{m}.{name}": tensor
        for m, weights in encoders.items()
        for name, tensor in tensors_of(encoder_entries(weights.config), weights.params).items()
    }


def joined(parts: Sequence[Loaded]) -> Loaded:
    """Returns the encoders of several sources, which have different modalities.

    Raises:
      UserError: there is no source, or two have an encoder of the same modality.
    """
    if not parts:
        raise UserError("The list of sources is empty: give at least one.")
    if len(parts) == 1:
        return parts[0]
    encoders: dict[Modality, EncoderWeights] = {}
    for part in parts:
        for modality, weights in part.encoders.items():
            if modality in encoders:
                raise UserError(
                    f"Two of the sources have an encoder of {modality}: give only one of them."
                )
            encoders[modality] = weights
    origins = [part.origin for part in parts]

    def all_of(values: list[str]) -> str:
        return "; ".join(dict.fromkeys(filter(None, values)))

    origin = Origin(
        all_of([o.source for o in origins]),
        all_of([o.format for o in origins]),
        all_of([o.network for o in origins]),
        license=all_of([o.license for o in origins]),
        family=all_of([o.family for o in origins]),
    )
    ordered = {m: encoders[m] for m in MODALITIES if m in encoders}
    return Loaded(ordered, origin, parts[0].compute_dtype, parts[0].short_side)
