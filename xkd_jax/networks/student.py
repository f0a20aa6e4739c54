"""Student and teacher: what the training state holds the parameters of."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.pretraining import Config, ModelConfig
from xkd_jax.networks.decoder import Decoder
from xkd_jax.networks.encoder import SHARED, Encoders
from xkd_jax.networks.head import Head
from xkd_jax.networks.tree import Tree


class Teacher(nnx.Module):
    """Encoder and head of each modality."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self._build(config, config.model.shares_teacher_blocks, rngs)

    def _build(self, config: Config, shared: bool, rngs: nnx.Rngs) -> None:
        model = config.model
        views = {m: config.modality(m) for m in MODALITIES}
        self.encoders = Encoders(model, views, shared=shared, rngs=rngs)
        self.heads = nnx.Dict(
            {
                m: Head(
                    model.encoder.width, model.head, dtype=jnp.dtype(model.compute_dtype), rngs=rngs
                )
                for m in MODALITIES
            }
        )


class Student(Teacher):
    """Encoder, head and decoder of each modality; the encoder is the autoencoder's own."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self._build(config, config.model.shares_student_blocks, rngs)
        self.decoders = nnx.Dict(
            {m: Decoder(config.model, config.modality(m), rngs=rngs) for m in MODALITIES}
        )


def teacher_counterpart(student: Tree, model: ModelConfig) -> Tree:
    """The student's parameters in the shape of the teacher's tree, for the moving average.

    Where only the student shares its blocks (`mas`), each modality's teacher follows them.
    """
    encoders = dict(student["encoders"])
    if model.shares_student_blocks and not model.shares_teacher_blocks:
        encoders["blocks"] = dict.fromkeys(MODALITIES, encoders["blocks"][SHARED])
    return {"encoders": encoders, "heads": student["heads"]}
