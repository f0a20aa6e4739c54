"""Recognition of a file's format, and import of its encoders."""

from __future__ import annotations

import dataclasses

from data_pipelines.errors import UserError
from data_pipelines.loader_config import Modality
from xkd_jax.inference.formats import audio_spectrogram_transformer, audiomae, cavmae, videomae, xkd
from xkd_jax.inference.formats.format import EncoderWeights, Format, Request
from xkd_jax.inference.formats.state_dict import StateDict, listed
from xkd_jax.inference.weight_files.weight_file import WeightFile

FORMATS: tuple[Format, ...] = (
    xkd.CHECKPOINT,
    xkd.BACKBONE,
    videomae.OFFICIAL,
    cavmae.FORMAT,
    audiomae.FORMAT,
    audio_spectrogram_transformer.FORMAT,
    videomae.TRANSFORMERS,
)


@dataclasses.dataclass(frozen=True)
class Import:
    """The result of an import.

    Attributes:
      path: of the file.
      format: the recognized format.
      network: student or teacher; empty: the file has one.
      encoders: {modality: encoder}.
      tensors: number of the network's tensors in the file.
      taken: number of them that belong to the encoders.
      left: {kind: number of other tensors}.
    """

    path: str
    format: Format
    network: str
    encoders: dict[Modality, EncoderWeights]
    tensors: int
    taken: int
    left: dict[str, int]

    def line(self) -> str:
        """Returns the line that the import prints."""
        left = ", ".join(f"{count} of {what}" for what, count in self.left.items()) or "none"
        kind = self.format
        return (
            f"weights   {self.path} is {kind.name} ({', '.join(self.encoders)}): {self.taken} of"
            f" {self.tensors} tensors taken, left: {left}; license: {kind.license}"
        )


def import_weights(file: WeightFile, request: Request) -> Import:
    """Imports the encoders of a file.

    Args:
      file: the file, open.
      request: options of the import.

    Raises:
      UserError: the format is unknown or not supported, tensors are missing or unknown, or a
        missing value must be given by `request`.
    """
    state = StateDict.found_in(file.path, file.root)
    total, names = len(state), state.names
    for kind in FORMATS:
        if kind.recognizes(names):
            encoders = kind.convert(state, request)
            network = request.network if kind.both_networks else ""
            return Import(file.path, kind, network, encoders, total, state.taken, state.left)
    if _is_v_jepa_2(names):
        raise UserError(
            f"{file.path} is a V-JEPA 2, whose rotary positions are not supported: give weights of"
            " a kind that docs/inference.md lists."
        )
    raise UserError(
        f"{file.path} holds weights of no known kind (tensors such as {listed(sorted(names))}):"
        " give weights of a kind that docs/inference.md lists."
    )


def _is_v_jepa_2(names: frozenset[str]) -> bool:
    """Whether names are those of V-JEPA 2, in transformers or of its authors."""
    theirs = {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias"} <= names
    return "encoder.embeddings.patch_embeddings.proj.weight" in names or (
        theirs and "pos_embed" not in names
    )
