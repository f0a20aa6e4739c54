"""The TPU kernel of video augmentation, executed by XLA, against XLA's operations."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice

from data_pipelines.loader_config import VideoConfig
from xkd_jax.augment import tpu_video, video
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel.mesh import make_mesh, on_mesh, traced_device

V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
V4 = AbstractDevice(device_kind="TPU v4", num_cores=1, platform="tpu")

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
RESIZED = ("frames", "box")
JITTER = ("brightness", "contrast", "saturation", "hue", "order")


def drawn(canvas, samples=24, frames=3):
    """Views with different orders of color jitter, and combinations of all switches."""
    rng = np.random.default_rng(0)
    switches = np.arange(samples)
    view = {
        "frames": rng.integers(0, 256, (samples, frames, *canvas, 3), np.uint8),
        "box": rng.uniform(np.array(canvas) / 4, canvas, (samples, 2)).astype(np.float32),
        "transposed": switches % 2 > 0,
        "flip": switches // 2 % 2 > 0,
        "grayscale": switches // 4 % 3 == 0,
        "blur_sigma": rng.uniform(0.1, 2, (samples, 2)) * (switches % 3 > 0)[:, None],
        "order": ORDERS[:samples],
        "hue": rng.uniform(-0.2, 0.2, samples),
        **{name: rng.uniform(0.4, 1.6, samples) for name in JITTER[:3]},
    }
    return {
        name: jnp.asarray(value, jnp.float32 if value.dtype == np.float64 else None)
        for name, value in view.items()
    }


def kernel(view, size, config):
    planes = video.planes_by_kernel(config, view, size, interpret=True)
    return jnp.moveaxis(planes, 1, 0)


def require_equal(view, size):
    expected = jax.jit(functools.partial(video.planes, VideoConfig(), size=size))(view)
    found = jax.jit(functools.partial(kernel, size=size, config=VideoConfig()))(view)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_kernel_equals_xla_for_each_order_and_switch():
    require_equal(drawn((40, 53)), 32)


@pytest.mark.parametrize(
    "canvas,size,without",
    [
        ((140, 150), 48, ("blur_sigma",)),  # more rows than the lanes of a register
        ((17, 9), 16, JITTER),
        ((17, 9), 16, ("hue", "saturation", "grayscale", "transposed")),
        ((128, 128), 20, set(drawn((4, 4))) - set(RESIZED)),  # evaluation
    ],
)
def test_kernel_without_some_augmentations_equals_xla(canvas, size, without):
    view = drawn(canvas, samples=6)
    require_equal({name: value for name, value in view.items() if name not in without}, size)


def test_pixels_of_unscaled_boxes_are_exact():
    view = {"frames": drawn((24, 24))["frames"], "box": jnp.full((len(ORDERS), 2), 24.0)}
    levels = VideoConfig(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    found = jnp.moveaxis(kernel(view, 24, levels), 0, -1)
    np.testing.assert_allclose(found, view["frames"], rtol=1e-6)


def test_each_device_of_a_mesh_augments_its_samples(monkeypatch):
    seen = []

    def interpreted(config, view, size):
        seen.append(len(view["frames"]))
        return jnp.moveaxis(video.planes(config, view, size), 1, 0)

    monkeypatch.setattr(video, "planes_by_kernel", interpreted)
    view = drawn((16, 16), samples=8)
    augmented = functools.partial(video.augment_video, VideoConfig(), size=8)
    expected = augmented(view)
    monkeypatch.setattr(video, "traced_device", lambda: V5E)
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8])
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    found = jax.jit(on_mesh(augmented, mesh), in_shardings=whole)(view)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(seen) == {2}


def test_kernel_is_for_tpus_with_enough_vector_memory():
    frames = jax.ShapeDtypeStruct((16, 32, 128, 171, 3), jnp.uint8)
    large = jax.ShapeDtypeStruct((16, 128, 256, 342, 3), jnp.uint8)
    assert tpu_video.is_supported(V5E, frames, 112)
    assert not tpu_video.is_supported(V5E, large, 224)
    assert not tpu_video.is_supported(V4, frames, 112)
    assert not tpu_video.is_supported(traced_device(), frames, 112)


def test_xla_can_be_selected(monkeypatch):
    monkeypatch.setattr(video, "traced_device", lambda: V5E)
    config = VideoConfig(kernel="xla")
    text = jax.jit(lambda v: video.augment_video(config, v, 8)).lower(drawn((16, 16))).as_text()
    assert "pallas" not in text
    assert "tpu_custom_call" not in text
