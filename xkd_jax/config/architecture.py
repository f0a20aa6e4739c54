"""Settings of the networks: sizes, shared blocks, and how they are computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from data_pipelines.errors import UserError
from data_pipelines.field_ranges import Doc, at_least
from data_pipelines.loader_config import MODALITIES, LoaderConfig, Modality, ViewConfig

Attention = Literal["auto", "xla", "cudnn", "pallas"]
Remat = Literal["none", "products", "all"]
RematChoice = Literal["auto", Remat]
Layers = Literal["auto", "scan", "unroll"]
ComputeDtype = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A stack of blocks: width, depth, number of heads, and differences of other projects' stacks.

    The MLP's hidden width is `mlp_ratio` times the width. XKD has no biases in its queries, keys
    and values (`qkv_bias`), and PyTorch's default `norm_eps` in each LayerNorm.
    """

    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = dataclasses.field(default=False, kw_only=True)
    norm_eps: float = dataclasses.field(default=1e-5, kw_only=True)

    @property
    def mlp_width(self) -> int:
        return round(self.width * self.mlp_ratio)

    @property
    def size(self) -> str:
        """Width, depth and heads, as in `ModelConfig.size`."""
        return f"{self.width}/{self.depth}/{self.heads}"


# Encoder and decoder of each named size (paper, appendix, and the released code; huge is ours).
SIZES: dict[str, tuple[Transformer, Transformer]] = {
    "tiny": (Transformer(192, 12, 3), Transformer(96, 4, 3)),
    "small": (Transformer(384, 12, 6), Transformer(192, 4, 6)),
    "base": (Transformer(768, 12, 12), Transformer(384, 4, 12)),
    "large": (Transformer(1024, 24, 16), Transformer(512, 8, 16)),
    "huge": (Transformer(1280, 32, 16), Transformer(512, 8, 16)),
}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Projection head: an MLP to a bottleneck, then one linear layer to the outputs."""

    layers: Annotated[int, at_least(1), Doc("linear layers of the MLP")] = 3
    hidden: Annotated[int, at_least(1), Doc("width of the MLP's hidden layers")] = 2048
    bottleneck: Annotated[int, at_least(1), Doc("width of the MLP's last layer")] = 256
    outputs: Annotated[int, at_least(1), Doc("number of the head's outputs")] = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks."""

    variant: Annotated[
        Literal["xkd", "mas", "mats"],
        Doc(
            "Transformer blocks that the modalities share: xkd: none; mas: the student's; mats: the"
            " student's and the teacher's"
        ),
    ] = "xkd"
    size: Annotated[
        str,
        Doc(
            "tiny, small, base, large, huge, or ENCODER:DECODER, each width/depth/heads, such as"
            " 128/4/4:64/2/4"
        ),
    ] = "base"
    head: HeadConfig = HeadConfig()
    compute_dtype: Annotated[
        ComputeDtype,
        Doc(
            "dtype of activations; auto: float32 on CPUs, bfloat16 elsewhere; parameters are"
            " float32"
        ),
    ] = "auto"
    attention: Annotated[
        Attention,
        Doc(
            "implementation of attention; auto: pallas on TPUs and NVIDIA GPUs, xla elsewhere and"
            " where it can't be used"
        ),
    ] = "auto"
    remat: Annotated[
        RematChoice,
        Doc(
            "activations of a block that are recomputed, to save memory: none; products: all but"
            " products and attention; all; auto: products on CPUs, else none"
        ),
    ] = "auto"
    layers: Annotated[
        Layers,
        Doc(
            "compilation of a stack of blocks: scan: a loop; unroll: slower to compile, faster to"
            " run; auto: scan on CPUs, else unroll"
        ),
    ] = "auto"

    def _transformers(self) -> tuple[Transformer, Transformer]:
        if self.size in SIZES:
            return SIZES[self.size]
        try:
            encoder, decoder = (
                Transformer(*(int(n) for n in part.split("/"))) for part in self.size.split(":")
            )
        except (ValueError, TypeError):
            raise UserError(
                f"model.size is {self.size!r}: give one of {', '.join(SIZES)}, or ENCODER:DECODER"
                " as width/depth/heads triples such as 128/4/4:64/2/4."
            ) from None
        return encoder, decoder

    @property
    def encoder(self) -> Transformer:
        """Sizes of each modality's encoder."""
        return self._transformers()[0]

    @property
    def decoder(self) -> Transformer:
        """Sizes of each modality's decoder."""
        return self._transformers()[1]

    @property
    def shares_student_blocks(self) -> bool:
        return self.variant in ("mas", "mats")

    @property
    def shares_teacher_blocks(self) -> bool:
        return self.variant == "mats"


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Settings that determine the parameters of student and teacher, and their shapes.

    Attributes:
      model: sizes, and the parts that the modalities share.
      views: of all modalities.
      modalities: those that the networks have, in the order of `MODALITIES`.
    """

    model: ModelConfig
    views: Mapping[Modality, ViewConfig] = dataclasses.field(hash=False)  # a dict has no hash
    modalities: tuple[Modality, ...]

    @classmethod
    def of(cls, model: ModelConfig, loader: LoaderConfig) -> Architecture:
        """Returns the architecture of networks for a loader's views."""
        return cls(model, {m: loader.modality(m) for m in MODALITIES}, loader.modalities)


def check_size(model: ModelConfig) -> None:
    """Checks the sizes of encoder and decoder.

    Raises:
      UserError: one is not positive, or heads don't divide a width.
    """
    for stack in (model.encoder, model.decoder):
        sizes = (stack.width, stack.depth, stack.heads, stack.mlp_ratio)
        if min(sizes) <= 0 or stack.width % stack.heads:
            raise UserError(
                f"model.size is {model.size!r}: every width must be a positive multiple of its"
                " number of heads."
            )
