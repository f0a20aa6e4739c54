import jax.numpy as jnp
import numpy as np

from xkd_jax.method.collapse_metrics import entropy, information, mean_cosine, spread


def test_collapsed_features_have_cosine_one_and_no_spread():
    features = jnp.ones((6, 4)) * jnp.arange(1.0, 7.0)[:, None]
    np.testing.assert_allclose(mean_cosine(features), 1, rtol=1e-5)
    np.testing.assert_allclose(spread(features), 0, atol=1e-6)


def test_spread_features_have_cosine_near_zero_and_spread_near_one():
    features = jnp.asarray(np.random.default_rng(0).normal(size=(512, 64)))
    assert abs(float(mean_cosine(features))) < 0.02
    np.testing.assert_allclose(spread(features), 1, rtol=0.05)


def test_mean_cosine_is_over_different_samples():
    features = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(mean_cosine(features), (0 - 1 + 0) / 3, rtol=1e-5)


def test_entropy_of_even_and_certain_distributions():
    np.testing.assert_allclose(entropy(jnp.full((8,), 1 / 8)), np.log(8), rtol=1e-6)
    assert float(entropy(jnp.asarray([1.0, 0.0]))) == 0


def test_information_is_log_of_classes_for_sure_and_different_targets_and_0_after_a_collapse():
    def found(targets):
        name = "collapse/audio_teacher"
        scalars = {
            f"{name}_entropy": float(entropy(targets).mean()),
            f"{name}_mean_entropy": float(entropy(targets.mean(0))),
            "loss": 3.0,
        }
        return information(scalars)

    sure = jnp.eye(4)
    np.testing.assert_allclose(found(sure)["collapse/audio_teacher_information"], np.log(4), 1e-6)
    for collapsed in (jnp.full((4, 4), 0.25), jnp.tile(sure[:1], (4, 1))):
        assert found(collapsed).keys() == {"collapse/audio_teacher_information"}
        np.testing.assert_allclose(*found(collapsed).values(), 0, atol=1e-6)
