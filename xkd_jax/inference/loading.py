"""Loading of trained encoders from runs, exported folders and files of other projects."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines import json_file, terminal
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import MODALITIES, Modality
from xkd_jax.config.encoder import EncoderConfig, input_view
from xkd_jax.config.pretraining import Config
from xkd_jax.inference import folder, run_checkpoint
from xkd_jax.inference.formats.format import EncoderWeights, Request
from xkd_jax.inference.formats.recognize import import_weights
from xkd_jax.inference.formats.state_dict import Given
from xkd_jax.inference.trained_model import Model, Origin
from xkd_jax.inference.weight_files import weight_file
from xkd_jax.networks import precision
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.tree import Tree
from xkd_jax.training.checkpoint_errors import DamagedError
from xkd_jax.training.saved_checkpoint import read_checked, read_record

Source = str | os.PathLike[str]
_WORDING = run_checkpoint.Wording("RUN", "step=N")
# Names of weights in folders of transformers.
_WEIGHTS = (folder.WEIGHTS, "pytorch_model.bin")
_DTYPES = ("float32", "bfloat16")


def load(
    source: Source | Sequence[Source],
    *,
    network: str = "student",
    step: int | None = None,
    modalities: Sequence[Modality] | None = None,
    compute_dtype: str | None = None,
    heads: int | None = None,
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
) -> Model:
    """Loads trained encoders.

    Args:
      source: a run's folder; a folder that `xkd_jax.export` or transformers wrote; a .safetensors,
        .pth or .pth.tar file of a kind in docs/inference.md; or a list of these, one for each
        modality. URLs are accepted.
      network: "student" or "teacher", for runs and checkpoints with both.
      step: step of a run's checkpoint; None: the newest.
      modalities: modalities to load; None: all.
      compute_dtype: "float32" or "bfloat16"; None: that of the run (auto: by the
        device), or float32.
      heads: number of attention heads, if the file does not have it.
      video: frames, size and patch of a video encoder, if the file does not have them.
      audio: mels, columns and patch of an audio encoder, if the file does not have them.

    Raises:
      UserError: the source can't be used, or a missing value must be given.
    """
    if network not in run_checkpoint.NETWORKS:
        raise UserError(f"network is {network!r}: give 'student' or 'teacher'.")
    if compute_dtype not in (None, *_DTYPES):
        raise UserError(f"compute_dtype is {compute_dtype!r}: give one of {', '.join(_DTYPES)}.")
    if not isinstance(source, str | os.PathLike):
        parts = [
            load(
                one, network=network, step=step, compute_dtype=compute_dtype, heads=heads,
                video=video, audio=audio,
            )
            for one in source
        ]  # fmt: skip
        return _kept(_joined(parts), modalities)
    path = os.fspath(source)
    request = Request(network, Given(heads, video, audio))
    if storage.exists(path):
        found = _load_file(path, request, compute_dtype)
    elif not run_checkpoint.is_run(path) and storage.exists(storage.join(path, folder.CONFIG)):
        found = _load_file(_weights_in(path), request, compute_dtype)
    else:
        found = _load_run(path, network, step or 0, compute_dtype)
    return _kept(found, modalities)


def _joined(parts: list[Model]) -> Model:
    """Returns one model with the encoders of several, which have different modalities."""
    if not parts:
        raise UserError("The list of sources is empty: give at least one.")
    encoders: dict[Modality, EncoderWeights] = {}
    for part in parts:
        for modality in part.modalities:
            if modality in encoders:
                raise UserError(
                    f"Two of the sources have an encoder of {modality}: give only one of them."
                )
            encoders[modality] = EncoderWeights(part.config[modality], part.parameters[modality])
    origins = [part.origin for part in parts]

    def all_of(values: list[str]) -> str:
        return "; ".join(dict.fromkeys(filter(None, values)))

    origin = Origin(
        all_of([o.source for o in origins]),
        all_of([o.format for o in origins]),
        all_of([o.network for o in origins]),
        license=all_of([o.license for o in origins]),
    )
    ordered = {m: encoders[m] for m in MODALITIES if m in encoders}
    return Model(ordered, origin, compute_dtype=parts[0].compute_dtype)


def _kept(model: Model, modalities: Sequence[Modality] | None) -> Model:
    if modalities is None:
        return model
    if lacking := [m for m in modalities if m not in model.config]:
        raise UserError(
            f"{model.origin} has no encoder of {', '.join(lacking)}: it has"
            f" {', '.join(model.modalities)}, so give modalities among them."
        )
    kept = {
        m: EncoderWeights(model.config[m], model.parameters[m])
        for m in model.modalities
        if m in modalities
    }
    return Model(
        kept,
        model.origin,
        compute_dtype=model.compute_dtype,
        short_side=model.short_side,
        student=model.student,
    )


def _weights_in(path: str) -> str:
    names = storage.sizes(path)
    for name in _WEIGHTS:
        if name in names:
            return storage.join(path, name)
    if any(name.endswith(".index.json") for name in names):
        raise UserError(f"{path} has weights in several files: save them as one.")
    raise UserError(
        f"{path} has {folder.CONFIG} and no weights: put {folder.WEIGHTS} there, or give the"
        " folder of a run with checkpoints."
    )


def _load_file(path: str, request: Request, compute_dtype: str | None) -> Model:
    with weight_file.opened(path) as file:
        if folder.is_ours(file.metadata):
            return folder.read(file, compute_dtype)
        beside = os.path.dirname(path) or "."
        settings = _json(storage.join(beside, folder.CONFIG))
        preprocessor = _json(storage.join(beside, folder.PREPROCESSOR)) if settings else {}
        asked = Request(request.network, request.given, settings, preprocessor)
        found = import_weights(file, asked)
    terminal.print_text(found.line())
    origin = Origin(path, found.format, license=found.license)
    return Model(found.encoders, origin, compute_dtype=compute_dtype or "float32")


def _json(path: str) -> dict[str, Any]:
    """Returns the content of a JSON file, or {} if it does not exist."""
    try:
        content = json_file.read(path)
    except FileNotFoundError:
        return {}
    except json_file.ContentError as error:
        raise UserError(f"{path} can't be used ({error}): give an intact copy.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} can't be used (it is no JSON object): give an intact copy.")
    return content


def _load_run(path: str, network: str, step: int, compute_dtype: str | None) -> Model:
    if storage.is_remote(path):
        raise UserError(
            f"{path} is neither a file of weights nor an exported folder: give one of these."
        )
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: check the path.")
    directory = run_checkpoint.checkpoints_folder(Path(path), _WORDING)
    chosen = run_checkpoint.step_folder(directory, step, _WORDING)
    try:
        record = read_record(chosen)
        config = run_checkpoint.saved_config(record, directory, _WORDING, terminal.print_text)
        architecture = config.architecture
        cls = run_checkpoint.NETWORKS[network]
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = run_checkpoint.shapes_of(cls, architecture, here)
        tree = read_checked(chosen, record, network, like)
    except DamagedError as damage:
        raise UserError(
            f"The checkpoint {chosen} is damaged ({damage}): restore a copy of it, or give another"
            " step by step=N."
        ) from damage
    of_run = precision.compute_dtype(config.model, jax.local_devices()[0])
    return Model(
        encoders_of_run(tree, config),
        Origin(path, "a run", network, record.step),
        compute_dtype=compute_dtype or of_run,
        short_side=config.data.short_side,
        student=(architecture, tree) if network == "student" else None,
    )


def encoders_of_run(tree: Tree, config: Config) -> dict[Modality, EncoderWeights]:
    """Returns the separate encoders of a student's or a teacher's parameters.

    Args:
      tree: parameters in the structure of `Student` or `Teacher`.
      config: the run's config.
    """
    encoders = tree["encoders"]
    return {
        m: EncoderWeights(
            EncoderConfig(config.model.encoder, input_view(config.modality(m))),
            {
                "embedding": encoders["embeddings"][m],
                "blocks": encoders["blocks"].get(m) or encoders["blocks"][SHARED],
                "norm": encoders["norms"][m],
            },
        )
        for m in MODALITIES
        if m in encoders["embeddings"]
    }
