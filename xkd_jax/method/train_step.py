"""The training step: a pure function from state and batch to the next state and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from data_pipelines.loader_config import LoaderConfig, Modality
from xkd_jax.augment import augment
from xkd_jax.config.architecture import Architecture
from xkd_jax.config.loss_settings import LossConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.collapse_metrics import collapse_metrics
from xkd_jax.method.objective import (
    Inputs,
    ModalityViews,
    ObjectiveOutputs,
    next_centers,
    objective,
)
from xkd_jax.method.optimizer import squared_norms
from xkd_jax.method.random_streams import mask_stream, stream_key
from xkd_jax.method.schedules import Schedules
from xkd_jax.method.state_shardings import divided, gathered
from xkd_jax.method.train_state import TrainState, is_count, module_of
from xkd_jax.networks.patches import random_masking
from xkd_jax.networks.precision import matmul_precision, resolved
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.networks.tree import Tree

Metrics = dict[str, jax.Array]


def inputs_of(batch: Any, step: jax.Array, config: LoaderConfig) -> Inputs:
    """Augments the views of a batch and draws their masks.

    Args:
      batch: a batch of the data pipeline, arrays [batch, ...].
      step: number of updates made, int32 scalar.
      config: config of the views.
    """
    return masked(augment(config, batch), step, config)


def masked(views: dict[Modality, ModalityViews], step: jax.Array, config: LoaderConfig) -> Inputs:
    """Returns the inputs of augmented and normalized views, with random masks.

    Args:
      views: float32 views [batch, ...] of each modality.
      step: number of updates made, int32 scalar.
      config: config of the views.
    """
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
    make_inputs: Callable[[Any, jax.Array], Inputs],
    architecture: Architecture,
    loss: LossConfig,
    transformation: optax.GradientTransformationExtraArgs,
    schedules: Schedules,
    split: bool,
    skip_nonfinite: bool,
) -> tuple[TrainState, Metrics]:
    """Runs one training step; to be jitted with its keyword arguments bound.

    Args:
      state: state before the step.
      batch: a batch of the data pipeline, or another argument of `make_inputs`.
      make_inputs: (batch, step) -> views and masks.
      architecture: architecture of the networks.
      loss: weights and settings of the losses.
      transformation: the students' optimizer.
      schedules: the run's schedules.
      split: whether weights and moments are divided along the mesh's axis `data`.
      skip_nonfinite: whether a step with a metric that is not finite updates only its counters.

    Returns:
      The next state, and {name: float32 scalar} of metrics.
    """
    step = state.step

    # 1. Views and masks
    inputs = make_inputs(batch, step)

    # 2. The objective and its gradient with respect to the students
    temperatures = {m: of(step) for m, of in schedules.teacher_temperature.items()}
    whole = whole_weights(state, architecture) if split else state
    outputs, gradients = loss_and_gradients(whole, temperatures, inputs, architecture, loss)
    if split:
        gradients = divided(Student, gradients, architecture)

    # 3. Students by AdamW
    squares = squared_norms(gradients, resolved(architecture).model.compute_dtype)
    updates, optimizer_state = transformation.update(
        gradients, state.optimizer, state.student, squares=squares
    )
    student = optax.apply_updates(state.student, updates)

    # 4. Teachers: moving average of the students; centers: moving average of the teachers' outputs
    counterpart = teacher_counterpart(student, architecture)
    teacher = moving_average(state.teacher, counterpart, schedules.ema(step))
    distilled = ActiveLosses.of(loss.weights).distilled
    centers = next_centers(state.centers, outputs, distilled, loss.center_momentum)

    metrics = {
        "loss": outputs.loss,
        **{f"loss/{name}": term for name, term in outputs.terms.items()},
        **gradient_norms(squares),
        **collapse_metrics(outputs),
        "schedule/learning_rate": schedules.learning_rate(step),
        "schedule/ema": schedules.ema(step),
    }
    following = TrainState(step + 1, student, teacher, centers, optimizer_state)
    if skip_nonfinite:
        following = keep_finite(state, following, metrics)
    return following, metrics


def whole_weights(state: TrainState, architecture: Architecture) -> TrainState:
    """Returns the state with weights gathered along the axis `data`."""
    return state.replace(
        student=gathered(Student, state.student, architecture),
        teacher=gathered(Teacher, state.teacher, architecture),
    )


def loss_and_gradients(
    state: TrainState,
    temperatures: Mapping[Modality, Float[Array, ""]],
    inputs: Inputs,
    architecture: Architecture,
    loss: LossConfig,
) -> tuple[ObjectiveOutputs, Tree]:
    """Returns the objective, and its gradient in the structure of the student's parameters.

    `state`, `temperatures`, `inputs`, `architecture` and `loss` are those of `loss_function`.
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
    """Returns the function from the student's parameters to the loss that a step differentiates.

    Args:
      state: teachers' parameters and centers.
      temperatures: {modality: temperature of the teacher's softmax, float32 scalar}.
      inputs: views and masks.
      architecture: architecture of the networks.
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
    """Returns momentum * teacher + (1 - momentum) * student for each leaf.

    Args:
      teacher: float32 parameters.
      student: the same, in the same structure.
      momentum: float32 scalar.
    """
    return jax.tree.map(lambda t, s: momentum * t + (1 - momentum) * s, teacher, student)


def keep_finite(old: TrainState, new: TrainState, metrics: Metrics) -> TrainState:
    """Returns the new state or, if a metric is not finite, the old one with new step counters."""
    finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
    return jax.tree.map(lambda a, b: b if is_count(b) else jnp.where(finite, b, a), old, new)


def gradient_norms(squares: Tree) -> Metrics:
    """Returns gradient norms before clipping: of encoders, heads, decoders, and of all of them.

    Args:
      squares: `squared_norms` of the gradients.
    """
    groups = {
        name: sum((of.sum() for of in jax.tree.leaves(group)), jnp.float32(0))
        for name, group in squares.items()
    }
    return {
        "gradient_norm": jnp.sqrt(sum(groups.values(), jnp.float32(0))),
        **{f"gradient_norm/{name}": jnp.sqrt(of) for name, of in groups.items()},
    }
