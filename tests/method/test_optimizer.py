import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice
from method_inputs import with_weights
from random_parameters import random_student

from xkd_jax.method import optimizer as module
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.optimizer import clip_each_tensor, decay_mask, squared_norms
from xkd_jax.method.schedules import Schedules, constant
from xkd_jax.networks.tree import path_names
from xkd_jax.training.compiled_run import optimizer_of

CPU = AbstractDevice(device_kind="cpu", num_cores=None, platform="cpu")
V5E = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
CONSTANT = Schedules(constant(1e-2), constant(0.3), constant(0.9), {})


def named(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(path_names(path)): leaf for path, leaf in leaves}


def test_layers_are_clipped_separately_and_decoders_are_not():
    gradients = {
        "encoders": {"layers": {"w": jnp.stack([jnp.full((2, 2), 10.0), jnp.full((2, 2), 0.01)])}},
        "heads": {"w": jnp.full((4,), 10.0)},
        "decoders": {"layers": {"w": jnp.full((1, 2, 2), 10.0)}},
    }
    clip = clip_each_tensor(0.3)
    clipped, _ = clip.update(gradients, clip.init(gradients))
    layers = clipped["encoders"]["layers"]["w"]
    np.testing.assert_allclose(jnp.linalg.norm(layers[0]), 0.3, rtol=1e-5)
    np.testing.assert_array_equal(layers[1], gradients["encoders"]["layers"]["w"][1])
    np.testing.assert_allclose(jnp.linalg.norm(clipped["heads"]["w"]), 0.3, rtol=1e-5)
    assert clipped["decoders"] == gradients["decoders"]


@pytest.mark.parametrize("device", [CPU, V5E])
def test_squared_norms_of_tensors_and_of_the_layers_of_stacks(device, monkeypatch):
    monkeypatch.setattr(module, "traced_device", lambda: device)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4, 5), "bias": (3, 5)}
    stack = {name: rng.normal(size=shape).astype(jnp.bfloat16) for name, shape in shapes.items()}
    gradients = {"encoders": {"layers": stack, "cls": jnp.float32([[3, 4]])}}
    found = squared_norms(jax.tree.map(jnp.float32, gradients), "bfloat16")["encoders"]
    assert found["cls"] == 25
    for name, value in stack.items():
        axes = tuple(range(1, value.ndim))
        expected = np.square(value.astype(np.float64)).sum(axes)
        np.testing.assert_allclose(found["layers"][name], expected, rtol=1e-6)
        assert found["layers"][name].dtype == jnp.float32


def test_clipping_uses_squared_norms_that_are_given():
    gradients = {"heads": {"w": jnp.full((4,), 10.0)}}
    clip = clip_each_tensor(0.5)
    clipped, _ = clip.update(
        gradients, clip.init(gradients), squares={"heads": {"w": jnp.float32(1e4)}}
    )
    np.testing.assert_allclose(clipped["heads"]["w"], 0.05, rtol=1e-6)


def test_decay_applies_to_tables_and_kernels_only(small):
    student = random_student(small)
    decays = named(decay_mask(student, ActiveLosses.of(small.loss.weights)))
    assert decays["encoders/embeddings/video/positions"]
    assert decays["encoders/embeddings/audio/cls"]
    assert decays["encoders/blocks/video/layers/qkv/kernel"]
    assert decays["decoders/video/mask_token"]
    assert decays["heads/audio/directions"]
    for name in decays:
        if name.endswith(("bias", "scale")):
            assert not decays[name], name


def test_parameters_without_loss_do_not_change(small):
    config = with_weights(small, reconstruct_video=1.0)
    student = random_student(config)
    decays = named(decay_mask(student, ActiveLosses.of(config.loss.weights)))
    assert decays["encoders/blocks/video/layers/qkv/kernel"]
    assert not any(on for name, on in decays.items() if "audio" in name or "heads" in name)


def test_student_without_loss_does_not_decay(small):
    config = with_weights(small, distill_video_to_audio=1.0, reconstruct_video=1.0)
    decays = named(decay_mask(random_student(config), ActiveLosses.of(config.loss.weights)))
    assert decays["encoders/blocks/video/layers/qkv/kernel"]
    assert decays["heads/audio/directions"]
    assert not any(on for name, on in decays.items() if "heads/video" in name)
    assert not any(on for name, on in decays.items() if "decoders/audio" in name)


def test_adamw_equals_its_definition_over_steps(small):
    config = dataclasses.replace(
        small, optimizer=dataclasses.replace(small.optimizer, clip=0.0, eps=1e-3)
    )
    transformation = optimizer_of(config, CONSTANT)
    rng = np.random.default_rng(0)
    params = {"heads": {"audio": {"kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}}}
    state = transformation.init(params)
    expected = np.asarray(params["heads"]["audio"]["kernel"], np.float64)
    m = v = np.zeros((3, 2))
    for step in range(1, 4):
        g = rng.normal(size=(3, 2))
        gradients = {"heads": {"audio": {"kernel": jnp.asarray(g, jnp.float32)}}}
        updates, state = transformation.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        expected *= 1 - 1e-2 * 0.3
        expected -= 1e-2 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-3)
    np.testing.assert_allclose(params["heads"]["audio"]["kernel"], expected, rtol=1e-5)
