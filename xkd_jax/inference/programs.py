"""The compiled functions of a model: normalized views of inputs, and their encoding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.loader_config import AudioConfig, VideoConfig
from xkd_jax.augment.audio import augment_audio
from xkd_jax.augment.video import augment_video
from xkd_jax.config.architecture import ComputeDtype, ModelConfig
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.inference.formats.format import abstract_encoder
from xkd_jax.method.train_state import with_parameters
from xkd_jax.networks.precision import matmul_precision
from xkd_jax.networks.tree import Tree
from xkd_jax.parallel import mesh as mesh_lib


def computation(compute_dtype: ComputeDtype) -> ModelConfig:
    """Returns how the networks of a `Model` are computed, on all devices alike."""
    return ModelConfig(compute_dtype=compute_dtype, attention="xla", layers="scan")


@functools.cache
def encoding_program(
    config: EncoderConfig,
    compute_dtype: ComputeDtype,
    prepare: Callable[[EncoderConfig, Any], jax.Array],
    tokens: bool,
    mesh: jax.sharding.Mesh,
) -> Callable[[Tree, Any], Any]:
    """Returns the jitted (encoder's parameters, batch) -> pooled, or (tokens, pooled), float32.

    Args:
      config: of the encoder.
      compute_dtype: of activations.
      prepare: makes the normalized views of a batch.
      tokens: whether the tokens are returned too.
      mesh: whose devices share the batch; the results are on each of them.
    """
    model = computation(compute_dtype)

    def encode(params: Tree, batch: Any) -> Any:
        encoder = with_parameters(abstract_encoder(config, model), params)
        with matmul_precision(model):
            found = encoder(prepare(config, batch))
            pooled = encoder.pool(found)
        return (found.astype(jnp.float32), pooled) if tokens else pooled

    return jax.jit(
        mesh_lib.on_mesh(encode, mesh), out_shardings=NamedSharding(mesh, PartitionSpec())
    )


def identity(config: EncoderConfig, view: jax.Array) -> jax.Array:
    """Returns a view that is normalized already.

    Args:
      config: the encoder's config, which is not needed.
      view: normalized views, float32 [batch, ...].
    """
    return view


def squares(config: EncoderConfig, frames: jax.Array) -> jax.Array:
    """Returns normalized views of the central squares of frames.

    Args:
      config: the encoder's config.
      frames: uint8 [batch, time, height, width, 3].
    """
    assert isinstance(config.view, VideoConfig)
    height, width = frames.shape[2:4]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[:, :, top : top + side, left : left + side]
    box = jnp.full((len(frames), 2), side, jnp.float32)
    return cropped(config, {"frames": square, "box": box})


def cropped(config: EncoderConfig, view: dict[str, jax.Array]) -> jax.Array:
    """Returns normalized views of boxes of frames, float32 [batch, time, size, size, 3].

    Args:
      config: the encoder's config.
      view: frames and boxes of `data_pipelines.read.video_views`.
    """
    assert isinstance(config.view, VideoConfig)
    return augment_video(config.view, view, config.view.size)


def normalized_spectrogram(config: EncoderConfig, found: jax.Array) -> jax.Array:
    """Returns normalized spectrograms, float32 [batch, mel, time].

    Args:
      config: the encoder's config.
      found: spectrograms of `spectrograms.spectrogram`, [batch, mel, time].
    """
    view = config.view
    assert isinstance(view, AudioConfig)
    return augment_audio(view, view.global_augment, {"log_mel": found})
