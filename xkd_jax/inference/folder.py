"""The folder of an exported model: safetensors and their description."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from data_pipelines import json_file
from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES, AudioConfig, Modality, VideoConfig
from xkd_jax.config import dataclass_schema
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import INPUT_FIELDS, EncoderConfig
from xkd_jax.inference.formats.format import EncoderWeights, encoder_weights
from xkd_jax.inference.formats.state_dict import StateDict
from xkd_jax.inference.loaded import DTYPES, Loaded, Origin
from xkd_jax.inference.tensor_names import encoder_entries
from xkd_jax.inference.trained_model import Model
from xkd_jax.inference.weight_files.weight_file import WeightFile

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
# Key of the config in the safetensors' metadata, so that the file is sufficient.
_METADATA = "xkd_jax"
_LAYOUT = 1


@dataclasses.dataclass(frozen=True)
class _Options:
    """Fields of `EncoderConfig` that are not dataclasses."""

    special_tokens: int
    stride: tuple[int, ...]
    norm: Literal["tokens", "pooled", "none"]
    norm_eps: float
    pool: Literal["patches", "special"]


def description(model: Model) -> dict[str, Any]:
    """Returns the description of a model without its weights, of JSON types."""
    origin = model.origin
    return {
        "layout": _LAYOUT,
        "encoders": {m: _of_encoder(m, config) for m, config in model.config.items()},
        "compute_dtype": model.compute_dtype,
        "short_side": model.short_side,
        "network": origin.network,
        "step": origin.step,
        "format": origin.format,
        "family": origin.family,
        "license": origin.license,
        "digest": model.digest,
    }


def _of_encoder(modality: Modality, config: EncoderConfig) -> dict[str, Any]:
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(_Options)}
    options["stride"] = list(config.stride or ())
    view = {name: getattr(config.view, name) for name in INPUT_FIELDS[modality]}
    return {"transformer": dataclasses.asdict(config.transformer), "view": view, **options}


def metadata(model: Model) -> dict[str, str]:
    """Returns the metadata of the safetensors file."""
    return {_METADATA: json.dumps(description(model), sort_keys=True)}


def is_ours(found: Mapping[str, str]) -> bool:
    """Whether a safetensors' metadata are those of an exported model."""
    return _METADATA in found


def read(file: WeightFile) -> Loaded:
    """Returns the encoders in a safetensors file that `xkd_jax.export` wrote.

    Args:
      file: the file, open.

    Raises:
      UserError: the file is damaged or of another version of this program.
    """
    try:
        content = json_file.parse(file.metadata[_METADATA].encode())
        if content["layout"] != _LAYOUT:
            raise UserError(
                f"{file.path} was exported by another version of this program (layout"
                f" {content['layout']}, and this version reads {_LAYOUT}): use that version."
            )
        configs = {m: _encoder_of(m, content["encoders"][m]) for m in content["encoders"]}
        origin = Origin(
            file.path, content["format"], content["network"], content["step"], content["license"],
            content["family"],
        )  # fmt: skip
        dtype, short_side = content["compute_dtype"], content["short_side"]
        if dtype not in DTYPES:
            raise KeyError("compute_dtype")
    except (json_file.ContentError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file.path} has a description that can't be used ({error}): export it again."
        ) from None
    state = StateDict.found_in(file.path, file.root)
    encoders: dict[Modality, EncoderWeights] = {}
    for modality in [m for m in MODALITIES if m in configs]:
        config, own = configs[modality], state.below(f"{modality}.")
        if config.transformer.depth > len(own):
            raise UserError(f"{file.path} has fewer blocks than it states: export it again.")
        tensors = {entry.name: own.take(entry.name) for entry in encoder_entries(config)}
        encoders[modality] = encoder_weights(config, tensors, file.path)
    state.finish("an exported model")
    return Loaded(encoders, origin, dtype, int(short_side))


def _encoder_of(modality: Modality, content: dict[str, Any]) -> EncoderConfig:
    if modality not in MODALITIES:
        raise KeyError(modality)
    content = dict(content)
    transformer = dataclass_schema.build(Transformer, content.pop("transformer"))
    view: VideoConfig | AudioConfig = (
        dataclass_schema.build(VideoConfig, content.pop("view"))
        if modality == "video"
        else dataclass_schema.build(AudioConfig, content.pop("view"))
    )
    options = dataclasses.asdict(dataclass_schema.build(_Options, content))
    return EncoderConfig(transformer, view, **{**options, "stride": options["stride"] or None})
