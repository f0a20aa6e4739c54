import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.method.refinement import cross_modal_attention, refine_tokens


def attentions(seed=0, batch=2, heads=3, video=10, audio=6):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(0.9 * rng.dirichlet(np.ones(n), size=(batch, heads)), jnp.float32)
        for n in (video, audio)
    )


@pytest.mark.parametrize("mode", ["mean", "softmax"])
def test_cross_attention_equals_outer_product_of_paper(mode):
    video, audio = attentions()
    outer = video[:, :, None, :] * audio[:, :, :, None]  # [batch, heads, audio, video]
    averaged = outer.mean(2)
    if mode == "mean":
        expected = averaged / video.mean(-1, keepdims=True)
    else:
        expected = np.exp(averaged) / np.exp(averaged).sum(-1, keepdims=True)
    np.testing.assert_allclose(cross_modal_attention(video, audio, mode), expected, rtol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "softmax"])
def test_outer_product_is_never_formed(mode):
    video, audio = attentions(video=50, audio=40)
    jaxpr = jax.make_jaxpr(lambda v, a: cross_modal_attention(v, a, mode))(video, audio)
    largest = max(v.aval.size for equation in jaxpr.eqns for v in equation.outvars)
    assert largest <= video.size


def test_refinement_keeps_energy_of_pooled_feature():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, 10, 8)), jnp.float32)
    cross = cross_modal_attention(*attentions(), "mean")
    refined = refine_tokens(tokens, cross)
    np.testing.assert_allclose(
        np.square(refined.mean(1)).sum(-1), np.square(tokens.mean(1)).sum(-1), rtol=1e-4
    )


def test_uniform_attention_changes_nothing():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(2, 10, 8)), jnp.float32)
    even = jnp.full((2, 3, 10), 0.05)
    np.testing.assert_allclose(refine_tokens(tokens, even), tokens, rtol=1e-4, atol=1e-6)
