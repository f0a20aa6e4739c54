"""Schedules of a run, as pure functions of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from data_pipelines.loader_config import Modality
from xkd_jax.config.length import Length
from xkd_jax.config.loss_settings import TemperatureConfig
from xkd_jax.config.pretraining import OptimizerConfig

Schedule = Callable[[jax.Array | int], jax.Array]


@dataclasses.dataclass(frozen=True)
class Schedules:
    """The schedules of a run; each maps a step to a float32 scalar."""

    learning_rate: Schedule
    weight_decay: Schedule
    ema: Schedule
    teacher_temperature: dict[Modality, Schedule]


def constant(value: float) -> Schedule:
    """Returns the schedule with the same value at every step."""
    return lambda step: jnp.float32(value)


def cosine(start: float, end: float, steps: int, *, warmup: int = 0) -> Schedule:
    """Returns a linear warmup from 0 to `start`, then half a cosine from `start` to `end`.

    As in DINO, the warmup reaches `start` at its last step, and the cosine begins with `start`. The
    value `end` would be reached one step after the last step.

    Args:
      start: largest value.
      end: value at `steps`.
      steps: number of steps, including the warmup.
      warmup: number of steps of the warmup.
    """

    def value(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = start * step / max(warmup - 1, 1)
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        falling = end + 0.5 * (start - end) * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup, rising, falling)

    return value


def epoch_warmup(temperature: TemperatureConfig, steps_per_epoch: int) -> Schedule:
    """Returns a linear schedule from `start` to `end` that changes once per epoch, then `end`.

    Args:
      temperature: start, end and number of epochs.
      steps_per_epoch: number of steps of an epoch.
    """

    def value(step: jax.Array | int) -> jax.Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        progress = jnp.clip(epoch / max(temperature.warmup_epochs - 1, 1), 0, 1)
        progress = jnp.where(epoch < temperature.warmup_epochs, progress, 1.0)
        return (temperature.start + (temperature.end - temperature.start) * progress).astype(
            jnp.float32
        )

    return value


def schedules(
    optimizer: OptimizerConfig,
    temperatures: Mapping[Modality, TemperatureConfig],
    length: Length,
) -> Schedules:
    """Returns the schedules of a run (docs/method.md).

    Args:
      optimizer: learning rate, weight decay and moving average.
      temperatures: of each modality's teacher (`Config.teacher_temperatures`).
      length: of the run.
    """
    warmup = min(round(optimizer.warmup_epochs * length.steps_per_epoch), length.steps)
    return Schedules(
        learning_rate=cosine(
            optimizer.learning_rate, optimizer.final_learning_rate, length.steps, warmup=warmup
        ),
        weight_decay=constant(optimizer.weight_decay),
        ema=cosine(optimizer.ema_start, optimizer.ema_end, length.steps),
        teacher_temperature={
            m: epoch_warmup(temperature, length.steps_per_epoch)
            for m, temperature in temperatures.items()
        },
    )
