"""From a file of somebody's weights to encoders, or to a sentence that says why not."""

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
    """What came out of a file.

    Attributes:
      path: of the file.
      format: what it was recognized as.
      license: of the published weights of that kind.
      encoders: by modality.
      tensors: how many the network has in the file.
      taken: how many of them are the encoders'.
      left: how many are not, by what they are.
    """

    path: str
    format: str
    license: str
    encoders: dict[Modality, EncoderWeights]
    tensors: int
    taken: int
    left: dict[str, int]

    def line(self) -> str:
        """One line for the terminal."""
        left = ", ".join(f"{count} of {what}" for what, count in self.left.items()) or "none"
        return (
            f"weights   {self.path} is {self.format} ({', '.join(self.encoders)}): {self.taken} of"
            f" {self.tensors} tensors taken, left: {left}; license: {self.license}"
        )


def import_weights(file: WeightFile, request: Request) -> Import:
    """Takes the encoders out of a file.

    Raises:
      UserError: it is of no kind that is known, or of one whose encoder can't be expressed here; it
        lacks tensors or has unknown ones; or it doesn't say what `request` must.
    """
    state = StateDict.found_in(file.path, file.root)
    total, names = len(state), state.names
    for kind in FORMATS:
        if kind.recognizes(names):
            encoders = kind.convert(state, request)
            return Import(
                file.path, kind.name, kind.license, encoders, total, state.taken, state.left
            )
    if _is_v_jepa_2(names):
        raise UserError(
            f"{file.path} is a V-JEPA 2: rotary positions are what the encoder here lacks, so give"
            " weights of a kind that docs/inference.md lists."
        )
    raise UserError(
        f"{file.path} holds weights of no known kind (tensors such as {listed(sorted(names))}):"
        " give weights of a kind that docs/inference.md lists."
    )


def _is_v_jepa_2(names: frozenset[str]) -> bool:
    """Whether names are those of transformers or of the authors, who add no positions."""
    theirs = {"patch_embed.proj.weight", "blocks.0.attn.qkv.bias"} <= names
    return "encoder.embeddings.patch_embeddings.proj.weight" in names or (
        theirs and "pos_embed" not in names
    )
