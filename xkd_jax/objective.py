"""One evaluation of the training objective, in the order of the paper's equations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from xkd_jax import losses
from xkd_jax.config import MODALITIES, Config, Modality
from xkd_jax.networks.encoder import pool
from xkd_jax.networks.patches import random_masking
from xkd_jax.networks.student import Student, Teacher
from xkd_jax.refinement import cross_modal_attention, refine_tokens

OTHER: dict[Modality, Modality] = {"video": "audio", "audio": "video"}

# Teacher's modality of each direction of distillation, and the centre it keeps.
DIRECTIONS: dict[str, Modality] = {"video_to_audio": "video", "audio_to_video": "audio"}


class Inputs(struct.PyTreeNode):
    """What the objective needs of one batch.

    views: {modality: {"global": [batch, ...], "local": [views, batch, ...]}}, float32 and
      normalised; video [..., frames, height, width, colour], audio [..., mel, time]. "local" is
      absent where a modality has no local views.
    mask_noise: {modality: float32 [batch, tokens]}; the smallest are kept.
    teacher_temperature: {modality: scalar}.
    """

    views: Any
    mask_noise: Any
    teacher_temperature: Any


@dataclasses.dataclass(frozen=True)
class Needs:
    """Which parts of the computation the non-zero loss weights call for.

    reconstructed: modalities whose patches are predicted.
    distilled: directions of distillation.
    projected: modalities of which the student's output is used.
    teachers: whether the teachers' is.
    """

    reconstructed: tuple[Modality, ...]
    distilled: tuple[str, ...]
    projected: tuple[Modality, ...]
    teachers: bool

    @classmethod
    def of(cls, config: Config) -> Needs:
        """Reads the needs off the weights."""
        weights = dataclasses.asdict(config.loss.weights)
        distilled = tuple(d for d in DIRECTIONS if weights[f"distill_{d}"])
        taught = {OTHER[DIRECTIONS[d]] for d in distilled}
        return cls(
            reconstructed=tuple(m for m in MODALITIES if weights[f"reconstruct_{m}"]),
            distilled=distilled,
            projected=tuple(m for m in MODALITIES if m in taught or weights["align_students"]),
            teachers=bool(distilled) or bool(weights["align_teachers"]),
        )

    @property
    def latents(self) -> tuple[Modality, ...]:
        """Modalities whose masked global view the student encodes."""
        return tuple(m for m in MODALITIES if m in (*self.reconstructed, *self.projected))


def reconstruct(student: Student, inputs: Inputs, config: Config, out: dict[str, Any]) -> None:
    """Encodes the masked global views and, where weighted, predicts their patches.

    Leaves `{modality}_latent`, `_removed`, `_patches` and `_prediction` in `out`.
    """
    needs = Needs.of(config)
    for m in needs.latents:
        view = inputs.views[m]["global"]
        masking = random_masking(inputs.mask_noise[m], config.modality(m).mask_ratio)
        latent = student.encoders(m, view, masking.keep)
        out[f"{m}_latent"] = latent
        if m in needs.reconstructed:
            out[f"{m}_removed"] = masking.removed
            out[f"{m}_patches"] = student.encoders.embeddings[m].patches(view)
            out[f"{m}_prediction"] = student.decoders[m](latent, masking.restore)


def teach(teacher: Teacher, inputs: Inputs, config: Config, out: dict[str, Any]) -> None:
    """Encodes the teachers' views, refines their tokens across modalities and projects them.

    Leaves `{modality}_teacher_tokens`, `_cls_attention`, `_cross_attention`, `_refined` and
    `_teacher_output` in `out`; the attentions only where there is a refinement.
    """
    refinement = config.loss.refinement
    for m in MODALITIES:
        views = inputs.views[m]
        view = views["global"] if config.loss.teacher_view == "global" else views["local"][0]
        if refinement == "none":
            out[f"{m}_teacher_tokens"] = teacher.encoders(m, view)
        else:
            out[f"{m}_teacher_tokens"], out[f"{m}_cls_attention"] = (
                teacher.encoders.with_cls_attention(m, view)
            )
    for m in MODALITIES:
        tokens = out[f"{m}_teacher_tokens"][:, 1:]
        if refinement != "none":
            cross = cross_modal_attention(
                out[f"{m}_cls_attention"], out[f"{OTHER[m]}_cls_attention"], refinement
            )
            out[f"{m}_cross_attention"] = cross
            tokens = refine_tokens(tokens, cross)
        out[f"{m}_refined"] = tokens
        out[f"{m}_teacher_output"] = teacher.heads[m](tokens.mean(1, dtype=jnp.float32))


def project(student: Student, inputs: Inputs, config: Config, out: dict[str, Any]) -> None:
    """Projects the student's views: the masked global one first, then each whole local one.

    Leaves `{modality}_student_output` [views, batch, outputs] in `out`, and the local views'
    `{modality}_local_tokens` [views * batch, 1 + tokens, width].
    """
    for m in Needs.of(config).projected:
        features = [pool(out[f"{m}_latent"])[None]]
        local = inputs.views[m].get("local")
        if local is not None:
            # Samples come before views here, as their axis is the one that a mesh splits.
            samples = jnp.moveaxis(local, 0, 1)
            tokens = student.encoders(m, samples.reshape(-1, *local.shape[2:]))
            out[f"{m}_local_tokens"] = _views_first(tokens, samples).reshape(tokens.shape)
            features.append(_views_first(pool(tokens), samples))
        out[f"{m}_student_output"] = student.heads[m](jnp.concatenate(features))


def _views_first(rows: jax.Array, samples: jax.Array) -> jax.Array:
    """Rows [batch * views, ...] of `samples` [batch, views, ...] as [views, batch, ...]."""
    return jnp.moveaxis(rows.reshape(*samples.shape[:2], *rows.shape[1:]), 1, 0)


def objective(
    student: Student,
    teacher: Teacher,
    centres: dict[str, jax.Array],
    inputs: Inputs,
    config: Config,
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
    """Computes the total loss, every named loss that has a weight, and the intermediate results.

    Returns:
      The scalar loss; {name: scalar} with the names of `LossWeights`; the intermediate results as
      `reconstruct`, `teach` and `project` leave them.
    """
    needs, loss = Needs.of(config), config.loss
    out: dict[str, Any] = {}
    terms: dict[str, jax.Array] = {}

    reconstruct(student, inputs, config, out)
    for m in needs.reconstructed:
        terms[f"reconstruct_{m}"] = losses.reconstruction(
            out[f"{m}_patches"], out[f"{m}_prediction"], out[f"{m}_removed"]
        )
    if needs.teachers:
        teach(teacher, inputs, config, out)
    project(student, inputs, config, out)
    for direction in needs.distilled:
        source = DIRECTIONS[direction]
        probabilities = losses.teacher_softmax(
            out[f"{source}_teacher_output"],
            centres[direction],
            inputs.teacher_temperature[source],
        )
        out[f"{source}_teacher_probabilities"] = probabilities
        terms[f"distill_{direction}"] = losses.distillation(
            out[f"{OTHER[source]}_student_output"], probabilities, loss.student_temperature
        )
    if loss.weights.align_students:
        video, audio = (
            jnp.moveaxis(x, 0, 1).reshape(-1, x.shape[-1])
            for x in (out["video_student_output"], out["audio_student_output"])
        )
        terms["align_students"] = losses.squared_mmd(video, audio)
    if loss.weights.align_teachers:
        terms["align_teachers"] = losses.squared_mmd(
            out["video_teacher_output"], out["audio_teacher_output"]
        )
    return weighted_mean(terms, config), terms, out


def weighted_mean(terms: dict[str, jax.Array], config: Config) -> jax.Array:
    """Sum of the terms by their weights, over the sum of the weights."""
    weights = {k: w for k, w in dataclasses.asdict(config.loss.weights).items() if w}
    if set(weights) != set(terms):
        raise AssertionError(f"losses {sorted(terms)} are not the weighted {sorted(weights)}")
    total = sum((weights[name] * term for name, term in terms.items()), jnp.float32(0))
    return total / sum(weights.values())


def next_centres(
    centres: dict[str, jax.Array], out: dict[str, Any], config: Config
) -> dict[str, jax.Array]:
    """Moves the centre of each direction that was distilled, after its use in this step."""
    distilled = Needs.of(config).distilled
    return {
        d: losses.update_centre(
            c, out[f"{DIRECTIONS[d]}_teacher_output"], config.loss.centre_momentum
        )
        if d in distilled
        else c
        for d, c in centres.items()
    }
