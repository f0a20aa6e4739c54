"""Contents of `result.json`, without an evaluation."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import ml_collections

from configs.eval import ucf101
from xkd_jax.config import evaluation, pretraining


def result_content(
    raw: ml_collections.ConfigDict | None = None,
    keys: Iterable[tuple[str, Any]] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Returns a result of a config, with changed keys of the config and of the result."""
    raw = raw or ucf101.get_config()
    raw.update_from_flattened_dict(dict(keys))
    config = dataclasses.asdict(evaluation.resolve(raw))
    names = ("benchmark", "protocol", "modality", "network", "train_fraction")
    return {
        **{name: config[name] for name in names},
        "variant": "xkd", "size": "base", "metric": "top-1", "value": 70.04,
        "per_fold": [{"value": 70.04}], "checkpoint": {"step": 9}, "config": config,
        "pretraining": dataclasses.asdict(pretraining.Config()),
    } | changes  # fmt: skip
