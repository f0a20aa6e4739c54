"""Weights of any kind as the initial weights of a pretraining (`init.from`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, Modality, ViewConfig
from xkd_jax.config.architecture import Architecture, ModelConfig
from xkd_jax.config.encoder import EncoderConfig, input_fields
from xkd_jax.config.initial_weights import InitConfig
from xkd_jax.config.stated_input import stated
from xkd_jax.inference import loading, run_checkpoint
from xkd_jax.inference.formats.format import EncoderWeights, Request
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.loaded import Loaded
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.positions import resize_positions
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import agreement
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.initial_encoders import InitialEncoders, Read

_WORDING = run_checkpoint.Wording("--config.init.from=RUN", "--config.init.step=N")
# Fields of an input that are compared with the run's config; the others are sizes.
_RATES = ("spectrogram", "frame_rate", "sample_rate", "fft", "hop", "mean", "std")


@dataclasses.dataclass
class Start:
    """Initial weights of one modality; `start_of` adds the parts of the encoder one by one.

    Attributes:
      embedding: patch projection, positions, and CLS where the weights have one.
      blocks: parameters of the blocks.
      norm: the final norm; {}: the weights have no norm of each token.
      taken: names of the parts that were taken, for a line.
      fresh: parts of the encoder that the weights lack.
      left: parts of the weights that the encoder lacks.
      other: differences of the inputs.
    """

    embedding: Tree = dataclasses.field(default_factory=dict)
    blocks: Tree = dataclasses.field(default_factory=dict)
    norm: Tree = dataclasses.field(default_factory=dict)
    taken: list[str] = dataclasses.field(default_factory=list)
    fresh: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    other: list[str] = dataclasses.field(default_factory=list)


def reader(init: InitConfig, architecture: Architecture) -> Read | None:
    """Returns the function that reads `init.from` of a run; None: its encoders are random."""
    return (lambda: read(init, architecture)) if init.source else None


def read(init: InitConfig, architecture: Architecture) -> InitialEncoders:
    """Reads the weights of `init.from` and prints the parts that were taken from them.

    Args:
      init: which weights.
      architecture: of the run's networks.

    Raises:
      UserError: the weights can't be used, or don't fit the run's networks.
    """
    found = _loaded(init, architecture)
    used = [m for m in architecture.modalities if m in found.encoders]
    if not used:
        raise UserError(
            f"{found.origin} has no encoder of {', '.join(architecture.modalities)}: it has"
            f" {', '.join(found.encoders)}, so give other weights by --config.init.from."
        )
    found = found.only(used, "")
    record = {
        "source": found.origin.source,
        "format": found.origin.format,
        "license": found.origin.license,
        "digest": found.digest,
    }
    agreement.require({f"init.from {init.source}": record})
    starts = {
        m: start_of(m, weights, architecture, init.source) for m, weights in found.encoders.items()
    }
    for line in _lines(architecture.modalities, found, starts):
        print_on_main(line)
    return InitialEncoders(_values(architecture.model, starts, init.source), record)


def _loaded(init: InitConfig, architecture: Architecture) -> Loaded:
    sources = loading.several(init.source)
    for path in sources:
        if loading.is_absent(path):
            raise UserError(
                f"init.from is {path}, which is neither a file of weights nor a folder: give the"
                " path of one."
            )
    sizes = {m: _sizes(architecture.views[m]) for m in architecture.modalities}
    given = Given(
        init.heads or None, stated(init.video), stated(init.audio), sizes, "--config.init."
    )
    request = Request(init.network, given, alone=len(sources) == 1)
    return loading.load_sources(sources, request, init.step, _WORDING, print_on_main)


def _sizes(view: ViewConfig) -> dict[str, Any]:
    fields = input_fields(view)
    return {name: value for name, value in fields.items() if name not in _RATES}


def start_of(
    modality: Modality, weights: EncoderWeights, architecture: Architecture, source: str
) -> Start:
    """Returns a run's encoder of one modality with the parameters of other weights.

    Biases of values are added to the biases of attention's output, which gives the same function.
    XKD has no biases of queries; they are left out. (A bias of keys has no effect.)

    Args:
      modality: of the encoder.
      weights: its weights.
      architecture: of the run's networks.
      source: where the weights come from, for messages.

    Raises:
      UserError: widths, depths, heads or patches differ.
    """
    theirs, view, model = weights.config, architecture.views[modality], architecture.model
    _check_sizes(modality, theirs, model, view, source)
    params = jax.tree.map(np.asarray, weights.params)
    start = Start(other=list(_other_inputs(modality, theirs, view)))
    _take_embedding(start, theirs, params["embedding"], EncoderConfig(model.encoder, view))
    start.blocks = _blocks(params["blocks"]["layers"], start.left)
    start.taken.append(f"{theirs.transformer.depth} blocks")
    if theirs.norm == "tokens":
        start.norm = params["norm"]
        start.taken.append("final norm")
    else:
        start.fresh.append("final norm")
    if theirs.norm == "pooled":
        start.left.append("norm of pooled features")
    return start


def _check_sizes(
    modality: Modality, theirs: EncoderConfig, model: ModelConfig, view: ViewConfig, source: str
) -> None:
    own, other = model.encoder, theirs.transformer
    named = f"{source} has an encoder of {modality}"
    if other.mlp_width * own.width != own.mlp_width * other.width:
        raise UserError(
            f"{named} whose MLPs are {other.mlp_ratio:g} times as wide as its tokens, and those of"
            f" a run are {own.mlp_ratio:g} times: give other weights by --config.init.from."
        )
    if own.size != other.size:
        raise UserError(
            f"{named} of width/depth/heads {other.size}, and that of model.size"
            f" {model.size!r} is {own.size}: give"
            f" --config.model.size={other.size}:{model.decoder.size}."
        )
    if theirs.stride not in (None, theirs.view.patch):
        raise UserError(
            f"{named} with overlapping patches, which a run does not have: give other weights by"
            " --config.init.from."
        )
    if theirs.view.patch != view.patch:
        raise UserError(
            f"{named} with patches of {theirs.view.patch}, and {modality}.patch is {view.patch}:"
            f" give --config.{modality}.patch='{theirs.view.patch}' and sizes that fit."
        )
    axes = zip(view.interpolation, theirs.grid, view.grid, strict=True)
    if any(method is None and was != now for method, was, now in axes):
        raise UserError(
            f"{named} for inputs of {theirs.view.global_shape}, and the mel bands of"
            f" {view.global_shape} differ: give --config.audio.mels={theirs.view.global_shape[0]}."
        )


def _take_embedding(start: Start, theirs: EncoderConfig, params: Tree, own: EncoderConfig) -> None:
    """Takes projection, positions and CLS."""
    special = theirs.special_tokens
    patches = resize_positions(
        jnp.asarray(params["positions"][special:]), theirs.grid, own.grid, own.view.interpolation
    )
    first = params["positions"][: min(special, 1)]
    start.embedding["projection"] = params["projection"]
    start.embedding["positions"] = np.concatenate([first, np.asarray(patches)])
    grids = [" x ".join(map(str, grid)) for grid in (theirs.grid, own.grid)]
    interpolated = f", interpolated to {grids[1]}" if theirs.grid != own.grid else ""
    start.taken.extend(["patch projection", f"positions ({grids[0]}{interpolated})"])
    if special:
        start.embedding["cls"] = params["cls"][:1]
        start.taken.append("CLS")
    else:
        start.fresh.append("CLS")
    if special > 1:
        start.left.append(f"{special - 1} more special tokens")


def _blocks(layers: Tree, left: list[str]) -> Tree:
    """Returns the parameters of blocks without biases of queries, keys and values.

    Biases of queries that are not 0 are added to `left`.
    """
    bias = layers["qkv"].get("bias")
    if bias is None:
        return layers
    query, _, value = (bias[:, i] for i in range(3))
    if query.any():
        left.append("biases of queries")
    proj = layers["proj"]
    added = np.einsum("lhc,lhcd->ld", value, proj["kernel"])
    return {
        **layers,
        "qkv": {"kernel": layers["qkv"]["kernel"]},
        "proj": {"kernel": proj["kernel"], "bias": proj["bias"] + added},
    }


def _other_inputs(modality: Modality, theirs: EncoderConfig, view: ViewConfig) -> Iterator[str]:
    for name, now in input_fields(view).items():
        was = getattr(theirs.view, name)
        if name in _RATES and not _close(was, now):
            yield f"{modality}.{name} {was}, here {now}"


def _close(one: Any, other: Any) -> bool:
    return one == other if isinstance(one, str) else bool(np.allclose(one, other))


def _lines(
    modalities: tuple[Modality, ...], found: Loaded, starts: Mapping[Modality, Start]
) -> Iterator[str]:
    for m in modalities:
        if m not in starts:
            yield f"init      {m}: random, as {found.origin.source} has no encoder of it"
            continue
        start = starts[m]
        parts = [f"taken from {found.origin.source}: {', '.join(start.taken)}"]
        parts += [f"random: {', '.join(start.fresh)}"] if start.fresh else []
        parts += [f"left out: {', '.join(start.left)}"] if start.left else []
        yield f"init      {m} encoder of student and teacher, {'; '.join(parts)}"
        if start.other:
            yield f"note      these weights had another input: {', '.join(start.other)}"
    yield "init      random: projection heads and decoders"


def _values(model: ModelConfig, starts: Mapping[Modality, Start], source: str) -> Tree:
    """Returns the part of the tree `encoders` of `Student`.

    Raises:
      UserError: blocks are shared, and the modalities' blocks differ.
    """
    blocks: Tree = {m: {"layers": start.blocks} for m, start in starts.items()}
    if model.shares_student_blocks:
        first, *others = blocks.values()
        for other in others:
            if not all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(other))):
                raise UserError(
                    f"The modalities share blocks (model.variant {model.variant!r}), and"
                    f" {source} has different ones of {' and '.join(MODALITIES)}: give"
                    " weights of one modality by --config.init.from, or --config.model.variant=xkd."
                )
        blocks = {SHARED: first}
    return {
        "embeddings": {m: start.embedding for m, start in starts.items()},
        "blocks": blocks,
        "norms": {m: start.norm for m, start in starts.items()},
    }
