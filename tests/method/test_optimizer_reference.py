"""The optimizer compared with float64 NumPy, with schedules that change at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.config.loss_settings import LossWeights
from xkd_jax.config.pretraining import OptimizerConfig
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.optimizer import clip_each_tensor, decay_mask, optimizer
from xkd_jax.method.schedules import Schedules, constant

SETTINGS = OptimizerConfig(b1=0.8, b2=0.9, eps=0.01, clip=0.5)
SCHEDULES = Schedules(
    learning_rate=lambda step: 0.1 / (1.0 + step),
    weight_decay=lambda step: 0.2 + 0.1 * step,
    ema=constant(0.9),
    teacher_temperature={},
)
ALL = ActiveLosses.of(LossWeights())
NO_AUDIO = ActiveLosses.of(
    LossWeights(
        reconstruct_audio=0, distill_video_to_audio=0, distill_audio_to_video=0, align_students=0
    )
)
# {path: shape, whether it is a stack of layers, is clipped, decays, decays with NO_AUDIO}
LEAVES = {
    ("encoders", "audio", "layers", "qkv", "kernel"): ((2, 3, 2), True, True, True, False),
    ("encoders", "video", "layers", "norm", "scale"): ((2, 3), True, True, False, False),
    ("encoders", "video", "projection", "kernel"): ((3, 2), False, True, True, True),
    ("encoders", "video", "projection", "bias"): ((3,), False, True, False, False),
    ("encoders", "video", "qkv", "bias"): ((2, 2), False, True, False, False),
    ("decoders", "video", "mask_token"): ((1, 3), False, False, True, True),
    ("decoders", "audio", "layers", "kernel"): ((2, 2, 2), True, False, True, False),
    ("heads", "video", "directions"): ((3, 3), False, True, True, False),
    ("heads", "audio", "linears", "bias"): ((4,), False, True, False, False),
}


def nested(values):
    tree = {}
    for path, value in values.items():
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = value
    return tree


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def draw(rng, scale=1.0):
    return {path: scale * rng.normal(size=shape) for path, (shape, *_) in LEAVES.items()}


def as_tree(values):
    return nested({path: jnp.asarray(value, jnp.float32) for path, value in values.items()})


def clipped(gradient, stacked, limit):
    parts = gradient if stacked else gradient[None]
    scaled = [part * min(1.0, limit / (np.sqrt((part**2).sum()) + 1e-6)) for part in parts]
    return np.stack(scaled) if stacked else scaled[0]


@pytest.mark.parametrize("clip", [0.5, 0.0])
@pytest.mark.parametrize("active,decays_in", [(ALL, 3), (NO_AUDIO, 4)])
def test_three_steps_equal_the_definition(clip, active, decays_in):
    rng = np.random.default_rng(0)
    settings = OptimizerConfig(b1=0.8, b2=0.9, eps=0.01, clip=clip)
    transformation = optimizer(settings, SCHEDULES, active)
    expected = draw(rng)
    params = as_tree(expected)
    state = transformation.init(params)
    first, second = (dict.fromkeys(LEAVES, 0.0) for _ in range(2))
    for step in range(3):
        gradients = draw(rng, scale=0.4)
        updates, state = transformation.update(as_tree(gradients), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for path, (_, stacked, is_clipped, *_) in LEAVES.items():
            g = gradients[path]
            if clip and is_clipped:
                g = clipped(g, stacked, clip)
            first[path] = 0.8 * first[path] + 0.2 * g
            second[path] = 0.9 * second[path] + 0.1 * g**2
            m, v = first[path] / (1 - 0.8 ** (step + 1)), second[path] / (1 - 0.9 ** (step + 1))
            direction = m / (np.sqrt(v) + 0.01)
            if LEAVES[path][decays_in]:
                direction = direction + (0.2 + 0.1 * step) * expected[path]
            expected[path] = expected[path] - 0.1 / (1 + step) * direction
        for path, value in expected.items():
            np.testing.assert_allclose(
                at(params, path), value, rtol=1e-4, atol=1e-5, err_msg=str(path)
            )


@pytest.mark.parametrize("active,decays_in", [(ALL, 3), (NO_AUDIO, 4)])
def test_decay_mask_has_one_flag_per_tensor(active, decays_in):
    mask = decay_mask(as_tree(draw(np.random.default_rng(1))), active)
    found = {path: at(mask, path) for path in LEAVES}
    assert found == {path: row[decays_in] for path, row in LEAVES.items()}


def test_only_gradients_above_limit_are_scaled():
    clip = clip_each_tensor(1.0)
    gradients = {"heads": {"small": jnp.float32([0.6]), "large": jnp.float32([3.0, 4.0])}}
    found, _ = clip.update(gradients, clip.init(gradients))
    assert found["heads"]["small"] == gradients["heads"]["small"]
    np.testing.assert_allclose(found["heads"]["large"], [0.6, 0.8], rtol=1e-5)


def test_clipping_adds_epsilon_to_the_norm_as_pytorch_does():
    clip = clip_each_tensor(1e-6)
    gradients = {"encoders": {"w": jnp.float32([3e-6, 4e-6])}}
    found, _ = clip.update(gradients, clip.init(gradients))
    np.testing.assert_allclose(found["encoders"]["w"], [0.5e-6, 4e-6 / 6], rtol=1e-4)


def test_the_count_of_updates_is_an_int32_scalar():
    transformation = optimizer(SETTINGS, SCHEDULES, ALL)
    params = as_tree(draw(np.random.default_rng(2)))
    state = transformation.init(params)
    counts = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
    assert counts
    assert all(count.dtype == jnp.int32 and count == 0 for count in counts)
    _, state = transformation.update(params, state, params)
    assert all(leaf == 1 for leaf in jax.tree.leaves(state) if leaf.ndim == 0)
