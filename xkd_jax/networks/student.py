"""The networks of student and teacher."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from xkd_jax.config.architecture import Architecture
from xkd_jax.networks.decoder import Decoder
from xkd_jax.networks.encoder import SHARED, Encoders
from xkd_jax.networks.head import Head
from xkd_jax.networks.per_modality import per_modality
from xkd_jax.networks.tree import Tree


class Teacher(nnx.Module):
    """Encoder and head of each modality."""

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs):
        self._build(architecture, architecture.model.shares_teacher_blocks, rngs)

    def _build(self, architecture: Architecture, shared: bool, rngs: nnx.Rngs) -> None:
        model = architecture.model
        width, dtype = model.encoder.width, jnp.dtype(model.compute_dtype)
        self.encoders = Encoders(architecture, shared=shared, rngs=rngs)
        self.heads = per_modality(
            lambda m: Head(width, model.head, dtype=dtype, rngs=rngs), architecture.modalities
        )


class Student(Teacher):
    """Encoder, head and decoder of each modality."""

    def __init__(self, architecture: Architecture, *, rngs: nnx.Rngs):
        self._build(architecture, architecture.model.shares_student_blocks, rngs)
        self.decoders = per_modality(
            lambda m: Decoder(architecture.model, architecture.views[m], rngs=rngs),
            architecture.modalities,
        )


def teacher_counterpart(student: Tree, architecture: Architecture) -> Tree:
    """The student's parameters in the shape of the teacher's tree, for the moving average.

    Where only the student shares its blocks (`mas`), each modality's teacher follows them.
    """
    model, encoders = architecture.model, dict(student["encoders"])
    if model.shares_student_blocks and not model.shares_teacher_blocks:
        encoders["blocks"] = dict.fromkeys(architecture.modalities, encoders["blocks"][SHARED])
    return {"encoders": encoders, "heads": student["heads"]}
