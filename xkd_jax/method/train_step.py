"""The training step: one pure function from state and batch to the next state and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from data_pipelines.loader_config import LoaderConfig, Modality
from xkd_jax.augment import augment
from xkd_jax.config.pretraining import Architecture, Config, LossConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.collapse_metrics import collapse_metrics
from xkd_jax.method.objective import (
    Inputs,
    ModalityViews,
    ObjectiveOutputs,
    next_centers,
    objective,
)
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.random_streams import mask_stream, stream_key
from xkd_jax.method.schedules import Schedules
from xkd_jax.method.train_state import TrainState, is_count, module_of
from xkd_jax.networks.patches import random_masking
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import Tree

Metrics = dict[str, jax.Array]


def inputs_of(batch: Any, step: jax.Array, config: LoaderConfig) -> Inputs:
    """Augments the views of a batch of the data pipeline, and draws what is masked of them."""
    return masked(augment(config, batch), step, config)


def masked(views: dict[Modality, ModalityViews], step: jax.Array, config: LoaderConfig) -> Inputs:
    """Draws what is masked of views that are augmented and normalized."""
    masks = {}
    for m in views:
        shape = (len(views[m]["global"]), config.modality(m).tokens)
        noise = jax.random.uniform(stream_key(config.seed, mask_stream(m), step), shape)
        masks[m] = random_masking(noise, config.modality(m).mask_ratio)
    return Inputs(views, masks)


def train_step(
    state: TrainState,
    batch: Any,
    *,
    config: Config,
    schedules: Schedules,
    make_inputs: Callable[[Any, jax.Array, LoaderConfig], Inputs] = inputs_of,
) -> tuple[TrainState, Metrics]:
    """One step of the method, to be jitted with its keyword arguments bound.

    Args:
      state: before the step.
      batch: of the data pipeline, or what else `make_inputs` takes.
      config: of the run.
      schedules: of the run.
      make_inputs: makes views and masks of the batch.

    Returns:
      The next state, and float32 scalars by name.
    """
    step, active = state.step, ActiveLosses.of(config.loss.weights)

    # 1. Views and masks
    inputs = make_inputs(batch, step, config)

    # 2. The objective and its gradient in the students
    temperatures = {m: of(step) for m, of in schedules.teacher_temperature.items()}
    outputs, gradients = loss_and_gradients(
        state, temperatures, inputs, config.architecture, config.loss
    )

    # 3. Students by AdamW
    transformation = optimizer(config.optimizer, schedules, active)
    updates, optimizer_state = transformation.update(gradients, state.optimizer, state.student)
    student = optax.apply_updates(state.student, updates)

    # 4. Teachers by the moving average of the students, and centers by that of the teachers
    counterpart = teacher_counterpart(student, config.architecture)
    teacher = moving_average(state.teacher, counterpart, schedules.ema(step))
    centers = next_centers(state.centers, outputs, active.distilled, config.loss.center_momentum)

    metrics = {
        "loss": outputs.loss,
        **{f"loss/{name}": term for name, term in outputs.terms.items()},
        **gradient_norms(gradients),
        **collapse_metrics(outputs),
        "schedule/learning_rate": schedules.learning_rate(step),
        "schedule/ema": schedules.ema(step),
    }
    following = TrainState(step + 1, student, teacher, centers, optimizer_state)
    if config.nonfinite.action == "skip":
        following = keep_finite(state, following, metrics)
    return following, metrics


def loss_and_gradients(
    state: TrainState,
    temperatures: Mapping[Modality, Float[Array, ""]],
    inputs: Inputs,
    architecture: Architecture,
    loss: LossConfig,
) -> tuple[ObjectiveOutputs, Tree]:
    """The objective at a state, and its gradient in the shape of the student's parameters.

    The arguments are those of `loss_function`.
    """
    loss_of = loss_function(state, temperatures, inputs, architecture, loss)
    gradients, outputs = jax.grad(loss_of, has_aux=True)(state.student)
    return outputs, gradients


def loss_function(
    state: TrainState,
    temperatures: Mapping[Modality, Float[Array, ""]],
    inputs: Inputs,
    architecture: Architecture,
    loss: LossConfig,
) -> Callable[[Tree], tuple[jax.Array, ObjectiveOutputs]]:
    """Returns the function of the student's parameters that a step differentiates.

    Args:
      state: teachers' parameters and centers.
      temperatures: of the teachers' softmax, float32 scalars by modality.
      inputs: views and masks.
      architecture: of the networks.
      loss: weights and settings of the losses.
    """

    def loss_of(params: Tree) -> tuple[jax.Array, ObjectiveOutputs]:
        student = module_of(Student, params, architecture)
        teacher = module_of(Teacher, state.teacher, architecture)
        with matmul_precision(architecture.model):
            outputs = objective(student, teacher, state.centers, temperatures, inputs, loss)
        return outputs.loss, outputs

    return loss_of


def moving_average(teacher: Tree, student: Tree, momentum: jax.Array) -> Tree:
    """momentum * teacher + (1 - momentum) * student, leaf by leaf."""
    return jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)


def keep_finite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """The new state; if a metric is not finite, the old one with its counts advanced."""
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    return jax.tree.map(lambda a, b: b if is_count(b) else jnp.where(finite, b, a), old, new)


def gradient_norms(gradients: Tree) -> Metrics:
    """Norms before clipping: of all gradients, and of encoders, heads and decoders."""
    groups = {name: optax.tree.norm(group) for name, group in gradients.items()}
    return {
        "gradient_norm": jnp.sqrt(sum(jnp.square(norm) for norm in groups.values())),
        **{f"gradient_norm/{name}": norm for name, norm in groups.items()},
    }
