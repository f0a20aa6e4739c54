"""The training step: one pure function from state and batch to the next state and its metrics."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from xkd_jax.augment import augment
from xkd_jax.config import MODALITIES, Config
from xkd_jax.health import signs_of_collapse
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.objective import Inputs, next_centres, objective
from xkd_jax.optimizer import optimizer
from xkd_jax.schedules import Schedules
from xkd_jax.state import TrainState, builder, is_count
from xkd_jax.tree import Tree

Metrics = dict[str, jax.Array]


class Stream(enum.IntEnum):
    """Every use of randomness on the device; each draws from fold_in(seed, step, stream)."""

    INITIALISE = 0
    MASK_VIDEO = 1
    MASK_AUDIO = 2


def stream_key(seed: int, stream: Stream, step: jax.Array | int = 0) -> jax.Array:
    """The key of one stream at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)


def train_step(config: Config, schedules: Schedules) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the step for `jax.jit`: (state, batch of the data pipeline) -> (state, metrics)."""
    update = update_step(config, schedules)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        views = augment(config, batch)
        inputs = Inputs(
            views=views,
            mask_noise=mask_noise(state.step, views, config),
            teacher_temperature={
                m: schedules.teacher_temperature[m](state.step) for m in MODALITIES
            },
        )
        return update(state, inputs)

    return step


def mask_noise(step: jax.Array, views: Any, config: Config) -> dict[str, jax.Array]:
    """Uniform noise [batch, tokens] of each modality, which decides what is masked."""
    streams = {"video": Stream.MASK_VIDEO, "audio": Stream.MASK_AUDIO}
    return {
        m: jax.random.uniform(
            stream_key(config.seed, streams[m], step),
            (views[m]["global"].shape[0], config.modality(m).tokens),
        )
        for m in MODALITIES
    }


def update_step(config: Config, schedules: Schedules) -> Callable[..., tuple[TrainState, Metrics]]:
    """Returns the step behind augmentation and masking noise: (state, `Inputs`) -> the same."""
    differentiate, apply = differentiation(config), application(config, schedules)

    def step(state: TrainState, inputs: Inputs) -> tuple[TrainState, Metrics]:
        evaluation = differentiate(state, inputs)
        metrics = {
            "loss": evaluation.loss,
            **{f"loss/{name}": term for name, term in evaluation.terms.items()},
            **gradient_norms(evaluation.gradients),
            **signs_of_collapse(evaluation.out),
            "schedule/learning_rate": schedules.learning_rate(state.step),
            "schedule/ema": schedules.ema(state.step),
        }
        following = apply(state, evaluation)
        if config.nonfinite.action == "skip":
            following = keep_finite(state, following, metrics)
        return following, metrics

    return step


class Evaluation(struct.PyTreeNode):
    """The objective at one state.

    loss, terms, out: what `objective` returns.
    gradients: of the loss, in the shape of the student's parameters.
    """

    loss: jax.Array
    terms: dict[str, jax.Array]
    out: dict[str, Any]
    gradients: Tree


def differentiation(config: Config) -> Callable[[TrainState, Inputs], Evaluation]:
    """Returns the objective with its gradient in the student's parameters."""
    as_student, as_teacher = builder(Student, config), builder(Teacher, config)

    def differentiate(state: TrainState, inputs: Inputs) -> Evaluation:
        def loss_of(params: Tree) -> tuple[jax.Array, Any]:
            with matmul_precision(config):
                loss, terms, out = objective(
                    as_student(params), as_teacher(state.teacher), state.centres, inputs, config
                )
            return loss, (terms, out)

        (loss, (terms, out)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.student)
        return Evaluation(loss, terms, out, gradients)

    return differentiate


def application(
    config: Config, schedules: Schedules
) -> Callable[[TrainState, Evaluation], TrainState]:
    """Returns the update: students by the optimiser, then teachers and centres."""
    transformation = optimizer(config, schedules)

    def apply(state: TrainState, evaluation: Evaluation) -> TrainState:
        updates, optimizer_state = transformation.update(
            evaluation.gradients, state.optimizer, state.student
        )
        student = optax.apply_updates(state.student, updates)
        counterpart = teacher_counterpart(student, config)
        return TrainState(
            step=state.step + 1,
            student=student,
            teacher=moving_average(state.teacher, counterpart, schedules.ema(state.step)),
            centres=next_centres(state.centres, evaluation.out, config),
            optimizer=optimizer_state,
        )

    return apply


def moving_average(teacher: Tree, student: Tree, momentum: jax.Array) -> Tree:
    """momentum * teacher + (1 - momentum) * student, leaf by leaf (spec section 3.9)."""
    return jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)


def keep_finite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """The new state, or the old one with its counts advanced where any metric is not finite."""
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    return jax.tree.map(lambda a, b: b if is_count(b) else jnp.where(finite, b, a), old, new)


def gradient_norms(gradients: Tree) -> Metrics:
    """Norms before clipping: of all gradients, and of encoders, heads and decoders."""
    groups = {name: optax.tree.norm(group) for name, group in gradients.items()}
    return {
        "gradient_norm": jnp.sqrt(sum(jnp.square(norm) for norm in groups.values())),
        **{f"gradient_norm/{name}": norm for name, norm in groups.items()},
    }


def matmul_precision(config: Config) -> contextlib.AbstractContextManager[Any]:
    """float32 compute means float32 products, also where the device would round them down."""
    if config.model.compute_dtype == "float32":
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()
