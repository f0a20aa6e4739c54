"""The training objective, in the order of the paper (docs/method.md has its equations)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import einops
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Integer

from data_pipelines.loader_config import Modality
from xkd_jax.config.directions import Direction
from xkd_jax.config.loss_settings import LossConfig
from xkd_jax.method import losses
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.refinement import cross_modal_attention, refine_tokens
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.patches import Masking
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.networks.tree import Leaf

# {"global": [batch, ...], "local": [views, batch, ...]}: float32, normalized; video [..., frames,
# height, width, color], audio [..., mel, time]. "local" is absent without local views.
ModalityViews = dict[str, Leaf]


class Inputs(struct.PyTreeNode):
    """Inputs of the objective for one batch.

    views: augmented, normalized views of each modality.
    masks: masks of the global views.
    """

    views: dict[Modality, ModalityViews]
    masks: dict[Modality, Masking]


class Reconstruction(struct.PyTreeNode):
    """Patches of a global view and the decoder's prediction, [batch, tokens, values] each."""

    patches: Leaf
    prediction: Leaf


class Projection(struct.PyTreeNode):
    """The student's outputs for all views of a modality.

    outputs: outputs of the head, float32 [1 + views, batch, outputs], masked global view first.
    local_tokens: tokens of the local views, [views * batch, 1 + local tokens, width], view-major;
      None without local views.
    """

    outputs: Leaf
    local_tokens: Leaf | None


class TeacherOutputs(struct.PyTreeNode):
    """Outputs of the teacher of one modality.

    tokens: tokens of the teacher's view, [batch, 1 + tokens, width], CLS first.
    refined: refined patch tokens, [batch, tokens, width].
    output: output of the head, float32 [batch, outputs].
    cls_attention: attention of the last block's CLS query to the patch tokens, [batch, heads,
      tokens]; None without refinement.
    cross_attention: cross-modal attention, [batch, heads, tokens]; None without refinement.
    """

    tokens: Leaf
    refined: Leaf
    output: Leaf
    cls_attention: Leaf | None = None
    cross_attention: Leaf | None = None


class ObjectiveOutputs(struct.PyTreeNode):
    """The objective and the intermediate results that its losses need.

    loss: weighted mean of the terms, float32 scalar.
    terms: {name of `LossWeights`: float32 scalar} of each loss with a nonzero weight.
    latents: the student's tokens of the masked global view, [batch, 1 + kept, width], CLS first.
    reconstructions: patches and predictions.
    projections: the student's outputs.
    teachers: the teachers' outputs.
    targets: the teachers' distributions, [batch, outputs].
    """

    loss: Leaf
    terms: dict[str, Leaf]
    latents: dict[Modality, Leaf]
    reconstructions: dict[Modality, Reconstruction]
    projections: dict[Modality, Projection]
    teachers: dict[Modality, TeacherOutputs]
    targets: dict[Direction, Leaf]


def objective(
    student: Student,
    teacher: Teacher,
    centers: dict[str, Float[Array, " outputs"]],
    temperatures: Mapping[Modality, Float[Array, ""]],
    inputs: Inputs,
    config: LossConfig,
) -> ObjectiveOutputs:
    """Computes the losses with a nonzero weight, and their weighted mean.

    Args:
      student: encoders, heads and decoders; only their parameters get a gradient.
      teacher: encoders and heads.
      centers: {name of the direction: center of the teacher's outputs}.
      temperatures: {modality: temperature of the teacher's softmax}.
      inputs: views and masks.
      config: weights and settings of the losses.
    """
    active = ActiveLosses.of(config.weights)
    align = losses.alignment(config.alignment)
    views, masks = inputs.views, inputs.masks
    terms: dict[str, jax.Array] = {}

    # The student's tokens of masked global views and of local views
    tokens = {
        m: encode(student, m, views[m], masks[m].keep, local=m in active.projected)
        for m in active.encoded
    }
    latents = {m: latent for m, (latent, _) in tokens.items()}

    # Masked data modeling
    reconstructions = {
        m: reconstruct(student, m, views[m]["global"], latents[m], masks[m])
        for m in active.reconstructed
    }
    for m, found in reconstructions.items():
        terms[f"reconstruct_{m}"] = losses.reconstruction(
            found.patches, found.prediction, masks[m].removed
        )

    # Outputs of teachers, refined across modalities, and of students
    teachers = teach(teacher, views, config) if active.uses_teachers else {}
    projections = {m: project(student, m, *tokens[m]) for m in active.projected}

    # Cross-modal distillation
    targets = {
        d: losses.teacher_softmax(
            teachers[d.teacher].output, centers[d.name], temperatures[d.teacher]
        )
        for d in active.distilled
    }
    for d in active.distilled:
        terms[f"distill_{d.name}"] = losses.distillation(
            projections[d.student].outputs, targets[d], config.student_temperature
        )

    # Domain alignment
    if active.aligns("students"):
        rows = [einops.rearrange(of.outputs, "v b k -> (b v) k") for of in projections.values()]
        terms["align_students"] = losses.mean_over_pairs(align, rows)
    if active.aligns("teachers"):
        outputs = [of.output for of in teachers.values()]
        terms["align_teachers"] = losses.mean_over_pairs(align, outputs)

    loss = weighted_mean(terms, active.weights)
    return ObjectiveOutputs(loss, terms, latents, reconstructions, projections, teachers, targets)


def encode(
    student: Student,
    m: Modality,
    views: ModalityViews,
    keep: Integer[Array, "batch kept"],
    *,
    local: bool,
) -> tuple[Float[Array, "batch tokens width"], list[Float[Array, "batch _ width"]]]:
    """Encodes the masked global view and, if `local`, each unmasked local view.

    Args:
      student: encoders.
      m: the modality.
      views: its views.
      keep: indices of the kept patches of the global view.
      local: whether local views are encoded.

    Returns:
      The tokens of the global view, and those of each local view.
    """
    others = [(view, None) for view in views["local"]] if local and "local" in views else []
    latent, *tokens = student.encoders.encode_views(m, [(views["global"], keep), *others])
    return latent, tokens


def reconstruct(
    student: Student,
    m: Modality,
    view: Float[Array, "batch ..."],
    latent: Float[Array, "batch kept width"],
    masking: Masking,
) -> Reconstruction:
    """Predicts every patch of a global view from the encoder's tokens of the kept patches.

    Args:
      student: encoders and decoders.
      m: the modality.
      view: float32 global view [batch, ...].
      latent: CLS and kept tokens of the encoder.
      masking: mask of the view.
    """
    patches = student.encoders.embeddings[m].patches(view)
    return Reconstruction(patches, student.decoders[m](latent, masking.restore))


def teach(
    teacher: Teacher, views: dict[Modality, ModalityViews], config: LossConfig
) -> dict[Modality, TeacherOutputs]:
    """Encodes the teachers' views, refines tokens across modalities, and projects their mean."""
    whole = config.teacher_view == "global"
    seen = {m: of["global"] if whole else of["local"][0] for m, of in views.items()}
    if config.refinement == "none":
        encoded = {m: teacher.encoders(m, view) for m, view in seen.items()}
        return {
            m: TeacherOutputs(tokens, tokens[:, 1:], head_of_mean(teacher, m, tokens[:, 1:]))
            for m, tokens in encoded.items()
        }
    attended = {m: teacher.encoders.with_cls_attention(m, view) for m, view in seen.items()}
    outputs = {}
    for m, (tokens, attention) in attended.items():
        others = jnp.concatenate([a for n, (_, a) in attended.items() if n != m], axis=-1)
        cross = cross_modal_attention(attention, others, config.refinement)
        refined = refine_tokens(tokens[:, 1:], cross)
        output = head_of_mean(teacher, m, refined)
        outputs[m] = TeacherOutputs(tokens, refined, output, attention, cross)
    return outputs


def head_of_mean(
    teacher: Teacher, m: Modality, tokens: Float[Array, "batch tokens width"]
) -> Float[Array, "batch outputs"]:
    """The head's output for the mean of the patch tokens."""
    return teacher.heads[m](tokens.mean(1, dtype=jnp.float32))


def project(
    student: Student,
    m: Modality,
    latent: Float[Array, "batch kept width"],
    local: Sequence[Float[Array, "batch tokens width"]],
) -> Projection:
    """Projects the mean patch token of each view.

    Args:
      student: heads.
      m: the modality.
      latent: tokens of the masked global view.
      local: tokens of each local view.
    """
    features = jnp.stack([pool(tokens) for tokens in (latent, *local)])
    return Projection(student.heads[m](features), jnp.concatenate(local) if local else None)


def weighted_mean(
    terms: dict[str, Float[Array, ""]], weights: dict[str, float]
) -> Float[Array, ""]:
    """Returns sum(weight * term) / sum(weight), a float32 scalar.

    Args:
      terms: {name of a loss: float32 scalar}.
      weights: {name of a loss: weight}, the same names.

    Raises:
      AssertionError: the names differ.
    """
    if set(weights) != set(terms):
        raise AssertionError(f"losses {sorted(terms)} are not the weighted {sorted(weights)}")
    total = sum((weights[name] * term for name, term in terms.items()), jnp.float32(0))
    return total / sum(weights.values())


def next_centers(
    centers: dict[str, Float[Array, " outputs"]],
    outputs: ObjectiveOutputs,
    distilled: tuple[Direction, ...],
    momentum: float,
) -> dict[str, Float[Array, " outputs"]]:
    """Returns the centers of the next step; only those of distilled directions change.

    Args:
      centers: {name of the direction: center, float32 [outputs]}.
      outputs: outputs of this step.
      distilled: directions with a distillation loss.
      momentum: weight of the old center.
    """
    moved = {
        d.name: losses.next_center(centers[d.name], outputs.teachers[d.teacher].output, momentum)
        for d in distilled
    }
    return {**centers, **moved}
