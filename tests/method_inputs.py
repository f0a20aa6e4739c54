"""Inputs of the objective and of the step, for tests of the method."""

import dataclasses
import functools

import jax
import numpy as np
import optax

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.pretraining import Config
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import Inputs
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.schedules import Length, Schedules
from xkd_jax.method.train_step import train_step
from xkd_jax.networks.patches import random_masking

LENGTH = Length(steps=10, steps_per_epoch=5)


def change(config: Config, **sections) -> Config:
    """The configuration with other values in some of its sections."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


def with_weights(config: Config, **weights: float) -> Config:
    """The configuration with these loss weights, and 0 for all others."""
    zeros = dict.fromkeys(dataclasses.asdict(config.loss.weights), 0.0)
    changed = dataclasses.replace(config.loss.weights, **(zeros | weights))
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, weights=changed))


def learning(config: Config) -> Config:
    """Without warm-up, so that the first step moves something."""
    return change(config, optimizer={"warmup_epochs": 0.0, "learning_rate": 1e-3})


def mask_noise(config: Config, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise [batch, tokens] of each modality."""
    rng = np.random.default_rng(seed)
    return {m: rng.random((batch, config.modality(m).tokens), np.float32) for m in MODALITIES}


def make_inputs(config: Config, views, seed: int = 0) -> Inputs:
    """The views with random masks."""
    noise = mask_noise(config, len(views["video"]["global"]), seed)
    masks = {
        m: random_masking(jax.numpy.asarray(n), config.modality(m).mask_ratio)
        for m, n in noise.items()
    }
    return Inputs(views=jax.tree.map(jax.numpy.asarray, views), masks=masks)


def optimizer_of(config: Config, plan: Schedules) -> optax.GradientTransformation:
    """The optimizer of a run."""
    return optimizer(config.optimizer, plan, ActiveLosses.of(config.loss.weights))


def step_of_inputs(config: Config, plan: Schedules):
    """The training step, to be called with `Inputs` in place of a batch."""
    return functools.partial(
        train_step, config=config, schedules=plan, make_inputs=lambda inputs, *_: inputs
    )
