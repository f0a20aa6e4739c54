"""The model card of an exported model: description, inputs and results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from data_pipelines import terminal
from data_pipelines.format import storage
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.trained_model import Model
from xkd_jax.training.result_file import Result
from xkd_jax.training.run_results import evaluations


def card(model: Model) -> str:
    """Returns the card as Markdown, with the header that model hubs read.

    Args:
      model: to describe; for a run, results of its evaluations are found by
        `run_results.evaluations`.
    """
    origin = model.origin
    rows = []
    for modality, config in model.config.items():
        sizes = config.transformer
        shape = " x ".join(map(str, config.view.global_shape))
        rows.append(
            f"| {modality} | {shape} | {' x '.join(map(str, config.view.patch))} | {sizes.width} |"
            f" {sizes.depth} | {sizes.heads} | {_pooling(config)} |"
        )
    step = "" if origin.step is None else f", step {origin.step}"
    tags = {"CC BY-NC 4.0": "cc-by-nc-4.0", "BSD-2-Clause": "bsd-2-clause"}
    license_tag = next((tag for name, tag in tags.items() if name in origin.license), "other")
    found = _evaluations(model)
    return "\n".join([
        "---", "library_name: transformers", f"license: {license_tag}",
        "tags: [xkd, feature-extraction]", *_index(found), "---", "",
        "# Encoders exported by xkd_jax", "",
        f"From {origin.format}{f', {origin.network}' if origin.network else ''}{step}. License of"
        f" the weights: {origin.license or 'that of their run'}.", "",
        "| modality | input | patch | width | depth | heads | features |",
        "|---|---|---|---|---|---|---|", *rows, "",
        "Video is (time, height, width) at the frame rate of `preprocessor_config.json`, audio is"
        " (mel, time). Tokens have these orders, special tokens first.", "",
        "```python", "import xkd_jax", "features = xkd_jax.load('FOLDER').embed('clip.mp4')", "```",
        "", "```python", "from transformers import AutoModel",
        "model = AutoModel.from_pretrained('FOLDER', trust_remote_code=True)",
        "model.get_video_features(frames)  # normalized, [batch, time, color, height, width]",
        "model.get_audio_features(log_mel)  # normalized, [batch, time, mel]", "```", "",
        *_results(found),
        f"Digest of the weights: `{model.digest}`.", "",
    ])  # fmt: skip


def _evaluations(model: Model) -> list[Result]:
    """Returns the results of the run's evaluations of the same network and step."""
    origin = model.origin
    if origin.step is None:
        return []  # the weights of a file
    found = evaluations(storage.location(origin.source))
    return [e for e in found if (e.network, e.step) == (origin.network, origin.step)]


def _index(found: Sequence[Result]) -> Iterator[str]:
    """Yields the lines of `model-index`, in which model hubs look for metrics; JSON is YAML."""
    if not found:
        return
    yield "model-index:"
    yield "- name: xkd"
    yield "  results:"
    for result in found:
        kind = "mAP" if result.metric == "mAP" else "accuracy"
        metric = {"type": kind, "name": f"{result.metric}, {result.protocol}"}
        content = {
            "task": {"type": f"{result.modality}-classification"},
            "dataset": {"name": result.data or result.benchmark, "type": result.benchmark},
            "metrics": [metric | {"value": round(result.value, 2)}],
        }
        yield f"  - {json.dumps(content)}"


def _results(found: Sequence[Result]) -> Iterator[str]:
    if not found:
        return
    yield "| benchmark | protocol | modality | labels | result | chance |"
    yield "|---|---|---|---|---|---|"
    for result in found:
        chance = "" if result.chance is None else f"{result.chance:.1f}"
        cells = (
            result.benchmark, result.protocol, result.modality, f"{result.train_fraction:.0%}",
            f"{result.value:.1f} {result.metric}", chance,
        )  # fmt: skip
        yield terminal.table_row(cells)
    yield ""


def _pooling(config: EncoderConfig) -> str:
    mean = "mean of the special tokens" if config.pool == "special" else "mean of the patch tokens"
    return f"norm of the {mean}" if config.norm == "pooled" else mean
