"""Inputs of the objective and of the training step, for tests of the method."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from random_parameters import random_student

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import Config
from xkd_jax.method.objective import Inputs
from xkd_jax.method.schedules import Schedules, schedules
from xkd_jax.method.state_shardings import abstract_state
from xkd_jax.method.train_state import TrainState
from xkd_jax.networks.patches import random_masking
from xkd_jax.networks.student import teacher_counterpart
from xkd_jax.training.compiled_run import optimizer_of, step_of

LENGTH = Length(steps=10, steps_per_epoch=5)


def change(config: Config, **sections) -> Config:
    """Returns the config with other values in some sections."""
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


def with_weights(config: Config, **weights: float) -> Config:
    """Returns the config with these loss weights, and 0 for all others."""
    zeros = dict.fromkeys(dataclasses.asdict(config.loss.weights), 0.0)
    changed = dataclasses.replace(config.loss.weights, **(zeros | weights))
    return dataclasses.replace(config, loss=dataclasses.replace(config.loss, weights=changed))


def learning(config: Config) -> Config:
    """The small config without warmup (step 1 changes parameters), skipping nonfinite steps."""
    return change(
        config,
        optimizer={"warmup_epochs": 0.0, "learning_rate": 1e-3},
        nonfinite={"action": "skip"},
    )


def mask_noise(config: Config, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise [batch, tokens] of each modality."""
    rng = np.random.default_rng(seed)
    return {m: rng.random((batch, config.modality(m).tokens), np.float32) for m in MODALITIES}


def make_inputs(config: Config, views, seed: int = 0) -> Inputs:
    """The views with random masks."""
    noise = mask_noise(config, len(next(iter(views.values()))["global"]), seed)
    masks = {
        m: random_masking(jnp.asarray(n), config.modality(m).mask_ratio)
        for m, n in noise.items()
        if m in views
    }
    return Inputs(views=jax.tree.map(jnp.asarray, views), masks=masks)


def schedules_of(config: Config, length: Length = LENGTH) -> Schedules:
    """The schedules of a run."""
    return schedules(config.optimizer, config.teacher_temperatures, length)


def step_of_inputs(config: Config, plan: Schedules):
    """The training step, which takes `Inputs` in place of a batch."""
    return step_of(config, plan, optimizer_of(config, plan), lambda inputs, *_: inputs)


def first_state(config: Config, plan: Schedules) -> TrainState:
    """A state before the first step, drawn by NumPy without compilation."""
    shapes = abstract_state(config.architecture, optimizer_of(config, plan))
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    student = random_student(config)
    teacher = teacher_counterpart(student, config.architecture)
    return jax.tree.map(jnp.asarray, state.replace(student=student, teacher=teacher))


def start(config: Config):
    """A state before the first step, and the step on one device, compiled once for all tests."""
    plan = schedules_of(config)
    return first_state(config, plan), jax.jit(step_of_inputs(config, plan)), plan
