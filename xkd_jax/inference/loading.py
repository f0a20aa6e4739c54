"""Loading of trained encoders from runs, exported folders and files of other projects."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from data_pipelines import json_file, terminal
from data_pipelines.errors import UserError
from data_pipelines.format import storage
from data_pipelines.loader_config import Modality
from xkd_jax.config.architecture import ComputeDtype
from xkd_jax.inference import folder, loaded, run_checkpoint
from xkd_jax.inference.formats.format import Request
from xkd_jax.inference.formats.given import Given
from xkd_jax.inference.formats.recognize import import_weights
from xkd_jax.inference.loaded import Loaded, Origin
from xkd_jax.inference.trained_model import Model
from xkd_jax.inference.weight_files import weight_file

Source = str | os.PathLike[str]
_WORDING = run_checkpoint.Wording("RUN", "step=N")
# Names of weights in folders of transformers.
_WEIGHTS = (folder.WEIGHTS, "pytorch_model.bin")


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
    if compute_dtype not in (None, *loaded.DTYPES):
        raise UserError(
            f"compute_dtype is {compute_dtype!r}: give one of {', '.join(loaded.DTYPES)}."
        )
    sources = [source] if isinstance(source, str | os.PathLike) else source
    paths = [os.fspath(one) for one in sources]
    for path in paths:
        if is_absent(path):
            raise UserError(f"{path} does not exist: check the path.")
    request = Request(network, Given(heads, video, audio), alone=len(paths) == 1)
    found = load_sources(paths, request, step or 0, _WORDING, terminal.print_text)
    if modalities is not None:
        found = found.only(modalities, "give modalities among them")
    if compute_dtype is not None:
        found = dataclasses.replace(found, compute_dtype=cast(ComputeDtype, compute_dtype))
    return Model.of(found)


def load_sources(
    paths: Sequence[str],
    request: Request,
    step: int,
    wording: run_checkpoint.Wording,
    print_line: Callable[[str], object],
) -> Loaded:
    """Returns the encoders of files of weights, exported folders and runs, together.

    Args:
      paths: their paths or URLs.
      request: options of an import; the network of a run.
      step: step of a run's checkpoint; 0: the newest.
      wording: words of messages.
      print_line: called with a line about what was taken.

    Raises:
      UserError: a source can't be used, or two have an encoder of the same modality.
    """
    _refuse_step(paths, step, wording)

    def read(path: str) -> Loaded:
        if (file := file_of_weights(path)) is not None:
            return _load_file(file, request, print_line)
        request.refuse_given(path)
        checkpoint = run_checkpoint.opened(storage.location(path), step, wording, print_line)
        return checkpoint.loaded(request.network, path)

    return loaded.joined([read(path) for path in paths])


def is_absent(path: str) -> bool:
    """Whether a local path does not exist; URLs are found to be absent when they are read."""
    return not storage.is_remote(path) and not os.path.exists(path)


def several(text: str) -> list[str]:
    """Returns the sources in a text: one path, or paths with commas between them."""
    return [text] if os.path.exists(text) or "," not in text else text.split(",")


def file_of_weights(path: str) -> str | None:
    """Returns the file of weights of a path or URL: itself, or that in a folder of transformers.

    Returns:
      None if the path is neither, but the folder of a run or nothing.

    Raises:
      UserError: it is such a folder without weights.
    """
    if storage.exists(path):
        return path
    if run_checkpoint.is_run(path) or not storage.exists(storage.join(path, folder.CONFIG)):
        return None
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


def _refuse_step(paths: Sequence[str], step: int, wording: run_checkpoint.Wording) -> None:
    """Checks that a step (0: none) is given only where one of the sources is a run."""
    if step and all(file_of_weights(path) is not None for path in paths):
        raise UserError(
            f"Step {step} is given, and {','.join(paths)} is no run, which has steps: leave"
            f" {wording.step.partition('=')[0]} out."
        )


def _load_file(path: str, request: Request, print_line: Callable[[str], object]) -> Loaded:
    """Returns the encoders in a file of weights, and prints a summary of the import."""
    with weight_file.opened(path) as file:
        if folder.is_ours(file.metadata):
            request.refuse_given(path)
            return folder.read(file)
        beside = os.path.dirname(path) or "."
        settings = _json(storage.join(beside, folder.CONFIG))
        preprocessor = _json(storage.join(beside, folder.PREPROCESSOR)) if settings else {}
        asked = Request(request.network, request.given, settings, preprocessor)
        found = import_weights(file, asked)
    print_line(found.line())
    kind = found.format
    origin = Origin(path, kind.name, found.network, license=kind.license, family=kind.family)
    return Loaded(found.encoders, origin)


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
