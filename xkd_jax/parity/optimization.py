"""Comparison of schedules, and of learning rates and weight decays of layers."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.loader_config import VideoConfig
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.config.loss_settings import TemperatureConfig
from xkd_jax.config.pretraining import Config
from xkd_jax.evaluate.fitting import decays, layer_scale
from xkd_jax.evaluate.readout import Readout
from xkd_jax.inference.formats.format import encoder_shapes
from xkd_jax.inference.tensor_names import encoder_entries
from xkd_jax.method.schedules import epoch_warmup, schedules
from xkd_jax.method.train_state import parameters
from xkd_jax.networks.tree import Tree, path_names
from xkd_jax.parity.comparison import Report, worst
from xkd_jax.parity.golden_file import Fields, GoldenFile

_LEARNING_RATE = 1e-10
_EMA = 1e-7
_TEMPERATURE = 1e-7
_FACTOR = 2e-6  # relative
_DECAY = 1e-9
_DEEPEST = 200
# {name in the authors' finetuned network, whose encoder has the names of `tensor_names`: path}
_READOUT = {
    "head.classifier.weight": ("readout", "classes", "kernel"),
    "head.classifier.bias": ("readout", "classes", "bias"),
}


def schedule_values(file: GoldenFile) -> Report:
    """Compares the length of a run on a number of clips, and its schedules.

    Settings are the defaults of `xkd_jax.config`, with `drop_last` as in the released code; a
    temperature's start and end are the first and last value of the file.

    Raises:
      UserError: the file is damaged.
    """
    fields = Fields(file)
    records = int(fields.whole("records", low=1, high=2**40))
    per_epoch = int(fields.whole("steps_per_epoch", low=1, high=records))
    steps = int(fields.whole("steps", low=1, high=2**31 - 1))
    at = fields.whole("at", "at", low=0, high=steps - 1)
    given = {name: fields.real(name, "at") for name in ("learning_rate", "ema")}
    temperatures = {
        name: fields.real(name, "epochs", low=1e-6, high=1e6)
        for name in fields.names()
        if name.endswith("_temperature")
    }
    fields.finish()

    epochs = max(1, round(steps / per_epoch))
    config = dataclasses.replace(
        Config(),
        batch_size=records // per_epoch,
        epochs=float(epochs),
        data=dataclasses.replace(Config().data, drop_last=True),
    )
    length = config.length(records)
    lengths = {
        "steps": abs(length.steps - steps),
        "steps_per_epoch": abs(length.steps_per_epoch - per_epoch),
        "epochs of the temperatures": abs(fields.sizes.get("epochs", epochs) - epochs),
    }
    planned = schedules(config.optimizer, config.teacher_temperatures, length)
    comparisons = [worst("length", 0.0, lengths)]
    for name, allowed in (("learning_rate", _LEARNING_RATE), ("ema", _EMA)):
        found = np.asarray(getattr(planned, name)(jnp.asarray(at, jnp.int32)), np.float64)
        errors = {
            f"step {step}": error
            for step, error in zip(at.tolist(), np.abs(found - given[name]), strict=True)
        }
        comparisons.append(worst(name, allowed, errors))
    for name, values in temperatures.items():
        ends = TemperatureConfig(float(values[0]), float(values[-1]))
        found = np.asarray(epoch_warmup(ends, 1)(jnp.arange(len(values))), np.float64)
        errors = {f"epoch {i}": error for i, error in enumerate(np.abs(found - values))}
        comparisons.append(worst(name, _TEMPERATURE, errors))
    return Report(f"schedules of {steps} steps on {records} clips", comparisons)


def layer_decay(file: GoldenFile) -> Report:
    """Compares each finetuned tensor's learning rate factor and weight decay.

    The file's names give the depth, the factor of its last block the layer decay, and its largest
    value the weight decay.

    Raises:
      UserError: the file is damaged.
    """
    table = _table(file)
    blocks = [int(m[1]) for name in table if (m := re.match(r"blocks\.(\d{1,3})\.", name))]
    if not blocks or max(blocks) >= _DEEPEST:
        raise file.damaged(f"its names are not of 1 to {_DEEPEST} blocks")
    depth = 1 + max(blocks)
    last = [
        factor for name, (factor, _) in table.items() if name.startswith(f"blocks.{depth - 1}.")
    ]
    decay, weight_decay = float(np.median(last)), max(decay for _, decay in table.values())
    ours = _tensors(depth, decay, weight_decay)
    if missing := sorted(ours.keys() - table.keys()):
        raise file.damaged(f"it lacks {missing[0]!r}")
    if foreign := sorted(table.keys() - ours.keys()):
        raise file.damaged(f"{foreign[0]!r} is not a tensor of a network of {depth} blocks")
    factors = {name: abs(ours[name][0] / factor - 1) for name, (factor, _) in table.items()}
    weights = {name: abs(ours[name][1] - decay) for name, (_, decay) in table.items()}
    return Report(
        f"{len(table)} tensors of {depth} blocks, layer decay {decay:g}, weight decay"
        f" {weight_decay:g}",
        [worst("learning rate", _FACTOR, factors), worst("weight decay", _DECAY, weights)],
    )


def _table(file: GoldenFile) -> dict[str, tuple[float, float]]:
    """Returns {tensor: (learning rate factor in (0, 1], weight decay)}."""
    found = {}
    for name, pair in file.content.items():
        numbers = isinstance(pair, list) and [
            float(x) for x in pair if isinstance(x, int | float) and not isinstance(x, bool)
        ]
        if not numbers or len(pair) != 2 or len(numbers) != 2:
            raise file.damaged(f"{name!r} is not a pair of numbers")
        if not (0 < numbers[0] <= 1 and 0 <= numbers[1] < np.inf):
            raise file.damaged(f"{name!r} is not a factor in (0, 1] and a decay of at least 0")
        found[name] = (numbers[0], numbers[1])
    return found


def _tensors(depth: int, decay: float, weight_decay: float) -> dict[str, tuple[float, float]]:
    """Returns our {tensor: (learning rate factor, weight decay)}, under the authors' names."""
    config = EncoderConfig(Transformer(8, depth, 1), VideoConfig())
    trained = {
        "network": encoder_shapes(config),
        "readout": parameters(nnx.eval_shape(lambda: _readout(config))),
    }
    scales = jax.tree_util.tree_map_with_path(
        lambda path, leaf: layer_scale(path, leaf.ndim, decay, depth), trained
    )
    scale_at, decays_at = _by_path(scales), _by_path(decays(trained))
    return {
        name: (float(np.ravel(scale_at[path])[layer]), weight_decay * decays_at[path])
        for name, path, layer in _places(config)
    }


def _readout(config: EncoderConfig) -> Readout:
    with nnx.use_eager_sharding(False):
        return Readout(config.transformer, 2, attentive=False, rngs=nnx.Rngs(0))


def _by_path(tree: Tree) -> dict[tuple[str, ...], Any]:
    return {path_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _places(config: EncoderConfig) -> list[tuple[str, tuple[str, ...], int]]:
    """Returns (name in the authors' finetuned network, our path, layer of a stack or 0)."""
    found: list[tuple[str, tuple[str, ...], int]] = []
    found += [(name, path, 0) for name, path in _READOUT.items()]
    for entry in encoder_entries(config):
        found.append((entry.name, ("network", *map(str, entry.path)), entry.layer or 0))
    return found
