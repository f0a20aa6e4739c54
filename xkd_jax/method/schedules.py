"""What changes over the course of a run, as pure functions of the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from data_pipelines.loader_config import Modality
from data_pipelines.read.shuffle import epoch_records
from xkd_jax.config.pretraining import Config, TemperatureConfig

Schedule = Callable[[jax.Array | int], jax.Array]


@dataclasses.dataclass(frozen=True)
class Schedules:
    """The four things that are scheduled; each maps a step to a float32 scalar."""

    learning_rate: Schedule
    weight_decay: Schedule
    ema: Schedule
    teacher_temperature: dict[Modality, Schedule]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.float32(value)


def cosine(start: float, end: float, steps: int, *, warmup: int = 0) -> Schedule:
    """`start` to `end` along half a cosine over `steps`, after a linear `warmup` from 0.

    The warm-up reaches `start` at its last step and the cosine begins there, as in DINO's
    schedule, which the reference uses. `end` lies one step beyond the last.
    """

    def value(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = start * step / max(warmup - 1, 1)
        progress = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        falling = end + 0.5 * (start - end) * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup, rising, falling)

    return value


def epoch_warmup(temperature: TemperatureConfig, steps_per_epoch: int) -> Schedule:
    """`start` to `end` linearly over the warm-up, one value an epoch, then `end`."""

    def value(step: jax.Array | int) -> jax.Array:
        epoch = jnp.asarray(step) // steps_per_epoch
        progress = jnp.clip(epoch / max(temperature.warmup_epochs - 1, 1), 0, 1)
        progress = jnp.where(epoch < temperature.warmup_epochs, progress, 1.0)
        return (temperature.start + (temperature.end - temperature.start) * progress).astype(
            jnp.float32
        )

    return value


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is, in steps."""

    steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, config: Config, records: int) -> Length:
        """Steps of a run over a data set of `records`.

        The last partial batch of an epoch is completed from the next epoch, or dropped with
        `data.drop_last`.

        Raises:
          UserError: it would be dropped, and the records don't fill a batch.
        """
        used = epoch_records(records, config.batch_size, config.data.drop_last)
        per_epoch = max(records // config.batch_size, 1)
        steps = config.max_steps or round(config.epochs * used / config.batch_size)
        return cls(steps=max(steps, 1), steps_per_epoch=per_epoch)


def schedules(config: Config, length: Length) -> Schedules:
    """The schedules of a run (docs/method.md)."""
    optimizer = config.optimizer
    warmup = min(round(optimizer.warmup_epochs * length.steps_per_epoch), length.steps)
    return Schedules(
        learning_rate=cosine(
            optimizer.learning_rate, optimizer.final_learning_rate, length.steps, warmup=warmup
        ),
        weight_decay=constant(optimizer.weight_decay),
        ema=cosine(optimizer.ema_start, optimizer.ema_end, length.steps),
        teacher_temperature={
            m: epoch_warmup(config.loss.teacher_temperature(m), length.steps_per_epoch)
            for m in config.modalities
        },
    )
