import jax
import jax.numpy as jnp
import numpy as np
import numpy_objective
import pytest

from xkd_jax.method import losses


def layer_normalized(rng, n, spread, width=512):
    x = rng.normal(size=width) + spread * rng.normal(size=(n, width))
    x -= x.mean(1, keepdims=True)
    return jnp.asarray(x / x.std(1, keepdims=True), jnp.float32)


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_mmd_equals_float64_definition(spread):
    rng = np.random.default_rng(0)
    x, y = layer_normalized(rng, 12, spread=spread), layer_normalized(rng, 8, spread=spread)
    expected = numpy_objective.squared_mmd(*(np.asarray(a, np.float64) for a in (x, y)))
    np.testing.assert_allclose(losses.squared_mmd(x, y), expected, rtol=2e-4)


def test_mmd_is_translation_invariant_also_far_from_zero():
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(2, 6, 32)))
    near, far = losses.squared_mmd(x, y), losses.squared_mmd(x + 300.0, y + 300.0)
    np.testing.assert_allclose(near, far, rtol=1e-3)


def test_mmd_gradient_is_finite_where_samples_coincide():
    x = jnp.ones((4, 16))
    gradient = jax.grad(lambda x: losses.squared_mmd(x, x + 0.1))(x)
    assert bool(jnp.isfinite(gradient).all())


def test_mmd_gradient_pulls_samples_together():
    rng = np.random.default_rng(2)
    x, y = jnp.asarray(rng.normal(size=(8, 4))), jnp.asarray(rng.normal(size=(8, 4)) + 2)
    gradient = jax.grad(losses.squared_mmd)(x, y)
    assert losses.squared_mmd(x - 0.1 * gradient, y) < losses.squared_mmd(x, y)


def test_reconstruction_of_normalized_target_is_zero_and_ignores_kept_tokens():
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(3, 5, size=(2, 4, 16)), jnp.float32)
    target = losses.normalize_patches(patches)
    removed = jnp.asarray([[1, 0, 1, 0], [0, 0, 1, 1]], jnp.float32)
    spoiled = target + 10 * (1 - removed)[..., None]
    assert float(losses.reconstruction(patches, target, removed)) < 1e-12
    assert float(losses.reconstruction(patches, spoiled, removed)) < 1e-12
    np.testing.assert_allclose(losses.reconstruction(patches, target + 2, removed), 4, rtol=1e-5)


def test_normalized_patches_use_the_unbiased_variance():
    patches = jnp.asarray([[[0.0, 2.0]]])  # mean 1, unbiased variance 2
    np.testing.assert_allclose(
        losses.normalize_patches(patches), [[[-(0.5**0.5), 0.5**0.5]]], rtol=1e-5
    )


def test_distillation_minimum_is_entropy_of_teacher():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
    q = losses.teacher_softmax(logits, jnp.zeros(7), 0.5)
    entropy = -(q * jnp.log(q)).sum(-1).mean()
    views = jnp.stack([logits, logits]) * 0.1 / 0.5  # the student's temperature is 0.1
    np.testing.assert_allclose(losses.distillation(views, q, 0.1), entropy, rtol=1e-5)
    other = views.at[0].add(rng.normal(size=(5, 7)))
    assert losses.distillation(other, q, 0.1) > entropy


def test_distillation_is_the_mean_over_views():
    rng = np.random.default_rng(0)
    views = jnp.asarray(rng.normal(size=(3, 4, 6)), jnp.float32)
    q = losses.teacher_softmax(jnp.asarray(rng.normal(size=(4, 6))), jnp.zeros(6), 0.1)
    each = [losses.distillation(view[None], q, 0.1) for view in views]
    np.testing.assert_allclose(losses.distillation(views, q, 0.1), np.mean(each), rtol=1e-6)


def test_no_gradient_reaches_the_teacher():
    gradient = jax.grad(lambda t: losses.teacher_softmax(t, jnp.zeros(3), 0.1)[0, 0])(
        jnp.ones((2, 3))
    )
    assert not gradient.any()
