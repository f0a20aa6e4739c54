"""Export of models: a folder for transformers, or files in the authors' format."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import AudioConfig, VideoConfig
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference import folder, model_card
from xkd_jax.inference.author_weights import PREFIX, backbone_name
from xkd_jax.inference.tensor_names import encoder_entries, tensors_of
from xkd_jax.inference.trained_model import Model
from xkd_jax.inference.weight_files import safetensors_file, torch_file

CARD, MODULE = "README.md", "modeling_xkd.py"


def export(model: Model, path: str | os.PathLike[str], *, layout: str = "transformers") -> None:
    """Writes the encoders of a model into a folder; files there of the same names are replaced.

    Args:
      model: of `xkd_jax.load`.
      path: path or URL of the folder.
      layout: "transformers": safetensors, their description, a card and a PyTorch module, which
        `AutoModel.from_pretrained(path, trust_remote_code=True)` and `xkd_jax.load` read;
        "authors": one file of torch.save for each backbone, under the names of XKD's authors.

    Raises:
      UserError: the layout is unknown, the folder can't be written, or an encoder is not XKD's and
        the authors' format can't represent it.
    """
    target = os.fspath(path)
    if layout not in ("transformers", "authors"):
        raise UserError(f"layout is {layout!r}: give 'transformers' or 'authors'.")
    if layout == "authors":
        files = {modality: _author_tensors(model, modality) for modality in model.config}
        storage.make_folder(target)
        for modality, tensors in files.items():
            name = f"{PREFIX[modality]}_{model.origin.network or 'student'}.pth.tar"
            with storage.writer(storage.join(target, name)) as file:
                torch_file.write(file, tensors)
        return
    storage.make_folder(target)
    with storage.writer(storage.join(target, folder.WEIGHTS)) as file:
        safetensors_file.write(file, model.tensors(), folder.metadata(model))
    module = Path(__file__).parent / "pytorch" / MODULE
    texts = {
        folder.CONFIG: _json(_config(model)),
        folder.PREPROCESSOR: _json(_preprocessor(model)),
        MODULE: module.read_text(encoding="utf-8"),
        CARD: model_card.card(model),
    }
    for name, text in texts.items():
        with storage.writer(storage.join(target, name)) as file:
            file.write(text.encode())


def _author_tensors(model: Model, modality: Any) -> dict[str, np.ndarray]:
    config = model.config[modality]
    sizes = dataclasses.asdict(config.transformer)
    plain = Transformer(*(sizes[name] for name in ("width", "depth", "heads")))
    if config != EncoderConfig(plain, config.view):
        raise UserError(
            f"The {modality} encoder of {model.origin} is not XKD's, and the authors' format can't"
            " represent it: give layout='transformers'."
        )
    tensors = tensors_of(encoder_entries(config), model.parameters[modality])
    return {backbone_name(name, modality): tensor for name, tensor in tensors.items()}


def _config(model: Model) -> dict[str, Any]:
    return {
        "model_type": "xkd",
        "architectures": ["XKDModel"],
        "auto_map": {"AutoConfig": "modeling_xkd.XKDConfig", "AutoModel": "modeling_xkd.XKDModel"},
        "dtype": "float32",
        **folder.description(model),
    }


def _preprocessor(model: Model) -> dict[str, Any]:
    """Requirements on inputs, under the keys of transformers where they exist."""
    found: dict[str, Any] = {}
    for config in model.config.values():
        view = config.view
        if isinstance(view, VideoConfig):
            square = {"height": view.size, "width": view.size}
            found |= {
                "do_resize": True, "size": {"shortest_edge": view.size}, "do_center_crop": True,
                "crop_size": square, "do_rescale": True, "rescale_factor": 1 / 255,
                "do_normalize": True, "image_mean": list(view.mean), "image_std": list(view.std),
                "num_frames": view.frames, "frame_rate": view.frame_rate,
            }  # fmt: skip
        if isinstance(view, AudioConfig):
            found |= {
                "sampling_rate": view.sample_rate, "num_mel_bins": view.mels, "n_fft": view.fft,
                "hop_length": view.hop, "max_length": view.columns, "mean": view.mean,
                "std": view.std, "spectrogram": view.spectrogram, "log_floor": 2.0**-23,
                "padding": "reflect" if view.spectrogram == "log_mel" else "none",
            }  # fmt: skip
    return found


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
