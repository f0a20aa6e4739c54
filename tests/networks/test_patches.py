import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice

from data_pipelines.loader_config import VideoConfig
from xkd_jax.config.architecture import Transformer
from xkd_jax.config.encoder import EncoderConfig
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.networks import patches, tpu_patches
from xkd_jax.networks.encoder import Embedding
from xkd_jax.networks.patches import (
    colors_first,
    colors_last,
    gather_tokens,
    patchify,
    permute_tokens,
    random_masking,
    unpatchify,
)
from xkd_jax.parallel.mesh import make_mesh, on_mesh

V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
V4 = AbstractDevice(device_kind="TPU v4", num_cores=1, platform="tpu")


def test_video_cuboids_are_ordered_time_height_width_and_flattened_in_planes_of_a_color():
    video = jnp.arange(2.0 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    cuboids = patchify(video, (2, 2, 3))
    assert cuboids.shape == (2, 2 * 2 * 2, 2 * 2 * 3 * 3)
    index = (1 * 2 + 0) * 2 + 1  # second in time, first row, second column
    np.testing.assert_array_equal(
        cuboids[1, index], np.moveaxis(video[1, 2:4, 0:2, 3:6], -1, 0).ravel()
    )


@pytest.mark.parametrize(
    "shape,patch",
    [
        ((2, 8, 48, 64, 3), (4, 16, 16)),
        ((1, 4, 24, 16, 3), (4, 8, 8)),  # tiles of values with rows of two frames
        ((1, 2, 32, 160, 2), (1, 16, 16)),  # more columns than lanes
    ],
)
def test_kernel_on_tpus_cuts_the_same_cuboids(shape, patch):
    video = jax.random.normal(jax.random.key(0), shape)
    found = tpu_patches.tpu_patches(jnp.moveaxis(video, -1, 1), patch, interpret=True)
    np.testing.assert_array_equal(found, patchify(video, patch), strict=True)


def test_kernel_needs_patches_that_fill_lanes_and_videos_that_fit_in_vector_memory():
    video, patch = (16, 32, 112, 112, 3), (4, 16, 16)
    assert tpu_patches.is_supported(V5E, video, patch)
    assert tpu_patches.is_supported(V4, video, patch)
    assert not tpu_patches.is_supported(V4, (16, 32, 224, 224, 3), patch)
    assert not tpu_patches.is_supported(V5E, video, (2, 4, 4))
    assert not tpu_patches.is_supported(V5E, video, (4, 14, 14))
    assert not tpu_patches.is_supported(jax.devices()[0], video, patch)


def test_each_device_of_a_mesh_cuts_its_samples(monkeypatch):
    seen = []

    def cut(videos, patch):
        seen.append(videos.shape)
        return patchify(jnp.moveaxis(videos, 1, -1), patch)

    monkeypatch.setattr(tpu_patches, "tpu_patches", cut)
    monkeypatch.setattr(patches, "traced_device", lambda: V5E)
    video = jax.random.normal(jax.random.key(1), (8, 4, 16, 24, 3))
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    stored = functools.partial(patches.stored_patches, patch=(2, 8, 8))
    found = jax.jit(on_mesh(stored, mesh), in_shardings=whole)(video)
    np.testing.assert_array_equal(found, patchify(video, (2, 8, 8)))
    assert set(seen) == {(2, 3, 4, 16, 24)}


@pytest.mark.parametrize("kernel", ["auto", "xla"])
def test_kernel_can_be_turned_off(monkeypatch, kernel):
    monkeypatch.setattr(patches, "traced_device", lambda: V5E)
    view = VideoConfig(frames=4, size=16, patch=(2, 8, 8), kernel=kernel)
    config = EncoderConfig(Transformer(16, 1, 2), view)
    with nnx.use_eager_sharding(False):
        embedding = Embedding(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    traced = jax.make_jaxpr(embedding.patches)(jnp.zeros((1, 4, 16, 16, 3)))
    assert ("pallas_call" in str(traced)) == (kernel == "auto")


def test_values_with_colors_last_are_reordered_to_those_of_patches():
    video = jnp.arange(2.0 * 4 * 4 * 6 * 3).reshape(2, 4, 4, 6, 3)
    first = video[:1, :2, :2, :3].reshape(1, -1)
    cuboids = patchify(video, (2, 2, 3))
    np.testing.assert_array_equal(colors_first(first, (2, 2, 3)), cuboids[:1, 0])
    np.testing.assert_array_equal(colors_last(cuboids[:1, 0], (2, 2, 3)), first)
    np.testing.assert_array_equal(unpatchify(cuboids, (2, 2, 3), (2, 2, 2)), video)


def test_audio_patches_are_ordered_mel_then_time():
    audio = jnp.arange(2.0 * 4 * 6).reshape(2, 4, 6)
    cut = patchify(audio, (2, 3))
    np.testing.assert_array_equal(cut[1, 1 * 2 + 0], audio[1, 2:4, 0:3].ravel())


def test_masking_keeps_tokens_of_smallest_noise_and_restores_order():
    noise = jax.random.uniform(jax.random.key(0), (3, 20))
    masking = random_masking(noise, 0.85)
    assert masking.keep.shape == (3, 3)
    np.testing.assert_array_equal(
        np.sort(np.take_along_axis(np.asarray(noise), np.asarray(masking.keep), 1)),
        np.sort(noise, axis=1)[:, :3],
    )
    np.testing.assert_array_equal(masking.removed.sum(1), 17)
    assert not np.take_along_axis(np.asarray(masking.removed), np.asarray(masking.keep), 1).any()
    tokens = jax.random.normal(jax.random.key(1), (3, 20, 4))
    order = jnp.argsort(noise, axis=1)
    np.testing.assert_array_equal(
        gather_tokens(gather_tokens(tokens, order), masking.restore), tokens
    )


def test_permuted_tokens_and_their_gradient_are_those_of_the_gather():
    tokens, weights = jax.random.normal(jax.random.key(0), (2, 3, 20, 4))
    order = jnp.argsort(jax.random.uniform(jax.random.key(1), (3, 20)), axis=1)
    (found, pull), (expected, expected_pull) = (
        jax.vjp(lambda x, of=of: of(x, order), tokens) for of in (permute_tokens, gather_tokens)
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(*pull(weights), *expected_pull(weights))


def test_number_of_kept_tokens_rounds_half_to_even():
    assert random_masking(jnp.zeros((1, 18)), 0.75).keep.shape[1] == 4
    assert random_masking(jnp.zeros((1, 392)), 0.85).keep.shape[1] == 59
    assert random_masking(jnp.zeros((1, 560)), 0.80).keep.shape[1] == 112
