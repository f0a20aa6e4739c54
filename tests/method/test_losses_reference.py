"""Losses, refinement and collapse metrics compared with float64 NumPy, on bfloat16 numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_objective
import pytest
from numpy_networks import softmax

from data_pipelines.errors import UserError
from xkd_jax.config.directions import Direction
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.method import losses
from xkd_jax.method.collapse_metrics import collapse_metrics, entropy, mean_cosine, spread
from xkd_jax.method.objective import ObjectiveOutputs
from xkd_jax.method.refinement import cross_modal_attention, refine_tokens
from xkd_jax.parallel import mesh as mesh_lib


def draw(seed, *shape, offset=0.0):
    """Numbers that bfloat16 represents exactly, as bfloat16 and as float64."""
    numbers = offset + np.random.default_rng(seed).normal(size=shape)
    narrow = jnp.asarray(np.asarray(numbers, jnp.bfloat16))
    return narrow, np.asarray(narrow, np.float64)


def close(found, expected, rtol=2e-5, atol=1e-6):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def normalized(patches):
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    return (patches - mean) / np.sqrt(variance + 1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0**-10])
def test_each_patch_is_normalized_separately(scale):
    narrow, patches = draw(0, 2, 3, 5, offset=2.0)
    narrow, patches = narrow * scale, patches * scale
    close(losses.normalize_patches(narrow), normalized(patches), rtol=1e-4)


def test_reconstruction_is_the_mean_over_removed_tokens():
    (patches, patches64), (prediction, prediction64) = draw(1, 2, 3, 5), draw(2, 2, 3, 5)
    removed = np.asarray([[1, 0, 1], [0, 0, 1]], bool)
    found = losses.reconstruction(patches, prediction, jnp.asarray(removed, jnp.float32))
    close(found, numpy_objective.reconstruction(patches64, prediction64, removed))


def test_teacher_outputs_are_centered_then_divided_by_temperature():
    (teacher, teacher64), (center, center64) = draw(3, 4, 6), draw(4, 6)
    found = losses.teacher_softmax(teacher, center.astype(jnp.float32), 0.3)
    close(found, softmax((teacher64 - center64) / 0.3), rtol=1e-4)
    # A large logit causes no overflow.
    assert np.isfinite(
        losses.teacher_softmax(1000 * teacher, center.astype(jnp.float32), 0.3)
    ).all()


def test_distillation_is_a_cross_entropy():
    student, student64 = draw(5, 3, 4, 6)
    targets = np.random.default_rng(6).dirichlet(np.ones(6), size=4)
    found = losses.distillation(student, jnp.asarray(targets, jnp.float32), 0.2)
    close(found, np.mean(-(targets * np.log(softmax(student64 / 0.2))).sum(-1)))


def test_center_is_a_moving_average():
    (center, center64), (teacher, teacher64) = draw(7, 6), draw(8, 4, 6)
    found = losses.next_center(center.astype(jnp.float32), teacher, 0.7)
    close(found, 0.7 * center64 + 0.3 * teacher64.mean(0))


@pytest.mark.parametrize("n,m,scale", [(5, 3, 1.0), (4, 4, 2.0**-3)])
def test_mmd_and_its_gradient_equal_definition(n, m, scale):
    (x, x64), (y, y64) = draw(9, n, 4), draw(10, m, 4, offset=0.5)
    x, y, x64, y64 = x * scale, y * scale, x64 * scale, y64 * scale
    close(losses.squared_mmd(x, y), numpy_objective.squared_mmd(x64, y64), rtol=1e-4)
    gradients = jax.grad(losses.squared_mmd, (0, 1))(x.astype(jnp.float32), y.astype(jnp.float32))
    for which, found in enumerate(gradients):
        expected = np.zeros_like((x64, y64)[which])
        for place in np.ndindex(expected.shape):
            step = np.zeros_like(expected)
            step[place] = 1e-6
            ahead, behind = ([x64, y64], [x64, y64])
            ahead[which], behind[which] = ahead[which] + step, behind[which] - step
            expected[place] = (
                numpy_objective.squared_mmd(*ahead) - numpy_objective.squared_mmd(*behind)
            ) / 2e-6
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5)


def test_mmd_of_samples_far_from_zero_is_accurate():
    """The common mean is subtracted before distances are taken."""
    x, y = (np.random.default_rng(s).integers(0, 8, (n, 4)) / 4.0 for s, n in ((0, 6), (1, 3)))
    expected = numpy_objective.squared_mmd(x, y)
    offset = np.asarray([2.0**11, -(2.0**12), 0, 2.0**10])
    found = losses.squared_mmd(jnp.float32(x + offset), jnp.float32(y + offset))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_mmd_of_coinciding_rows_has_zero_gradient():
    x = jnp.asarray([[1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_allclose(losses.squared_mmd(x, x), 0, atol=1e-6)
    assert not np.asarray(jax.grad(losses.squared_mmd)(x, x)).any()


def test_mmd_of_distant_rows_has_only_diagonal_terms():
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(1e4 * rng.normal(size=(2, 5, 64)), jnp.float32)
    np.testing.assert_allclose(losses.squared_mmd(x, y), 2 * 7 / 5, rtol=1e-6)


def test_mmd_on_mesh_divides_pairs_along_both_axes():
    mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sample = jax.ShapeDtypeStruct((8, 6), np.float32)
    with jax.set_mesh(mesh):
        found = str(jax.make_jaxpr(losses.squared_mmd)(sample, sample)).replace(
            "PartitionSpec", "P"
        )
    rows, columns = (
        found.count(f"P({axes}, None, 'tensor')") for axes in ("'data', None", "None, 'fsdp'")
    )
    assert rows == columns > 0


def test_alignment_of_several_samples_is_the_mean_over_pairs():
    x, y, z = (jnp.float32(n) for n in ([[1.0]], [[3.0]], [[7.0]]))

    def distance(a, b):
        return jnp.abs(a - b).sum()

    assert float(losses.mean_over_pairs(distance, [x, y])) == 2
    assert float(losses.mean_over_pairs(distance, [x, y, z])) == 4


def test_alignment_is_chosen_by_name():
    assert losses.alignment("mmd") is losses.ALIGNMENTS["mmd"]
    with pytest.raises(UserError) as refused:
        losses.alignment("coral")
    assert str(refused.value) == "loss.alignment is 'coral': give one of mmd."


def test_unknown_alignment_is_refused_with_choices(monkeypatch):
    monkeypatch.setitem(losses.ALIGNMENTS, "other", losses.squared_mmd)
    with pytest.raises(UserError, match=r": give one of mmd, other\.$"):
        losses.alignment("coral")


@pytest.mark.parametrize("mode", ["mean", "softmax"])
def test_refinement_equals_outer_product(mode):
    rng = np.random.default_rng(11)
    # What CLS attends to besides the patches differs between samples and heads.
    own, other = (
        rng.uniform(0.2, 0.9, (2, 3, 1)) * rng.dirichlet(np.ones(n), (2, 3)) for n in (5, 4)
    )
    tokens, tokens64 = draw(12, 2, 5, 6, offset=0.3)
    cross = cross_modal_attention(jnp.float32(own), jnp.float32(other), mode)
    outer = (own[..., None] * other[:, :, None]).mean(-1)
    close(cross, softmax(outer) if mode == "softmax" else outer / own.mean(-1, keepdims=True))
    close(refine_tokens(tokens, cross), numpy_objective.refine(tokens64, own, other, mode), 1e-4)


def test_entropy_spread_and_cosine_equal_definitions():
    targets = np.random.default_rng(13).dirichlet(np.ones(6), size=4)
    close(entropy(jnp.float32(targets)), -(targets * np.log(targets)).sum(-1))
    features = np.random.default_rng(14).normal(1, 1, size=(5, 3))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    close(spread(jnp.float32(features)), unit.std(0).mean() * 3**0.5)
    pairs = [unit[i] @ unit[j] for i in range(5) for j in range(5) if i != j]
    close(mean_cosine(jnp.float32(features)), np.mean(pairs))
    close(mean_cosine(jnp.float32(features[:2])), unit[0] @ unit[1])


def test_collapse_metrics_are_finite_for_one_sample_and_zero_features():
    np.testing.assert_allclose(mean_cosine(jnp.float32([[3.0, 4.0]])), 0, atol=1e-6)
    np.testing.assert_allclose(mean_cosine(jnp.zeros((2, 2))), -1, atol=1e-6)
    assert float(spread(jnp.zeros((2, 2)))) == 0
    # A feature far below 1 is scaled to unit length as well.
    np.testing.assert_allclose(mean_cosine(jnp.float32([[1e-9, 0], [1e-9, 0]])), 1, rtol=1e-5)


def collapse_inputs(latent):
    targets = np.random.default_rng(15).dirichlet(np.ones(6), size=4)
    outputs = ObjectiveOutputs(
        loss=jnp.float32(0), terms={}, latents={"audio": latent}, reconstructions={},
        projections={}, teachers={}, targets={Direction("video", "audio"): jnp.float32(targets)},
    )  # fmt: skip
    return outputs, targets


def test_collapse_metrics_are_of_targets_and_of_pooled_features():
    latent, latent64 = draw(16, 4, 3, 5)
    outputs, targets = collapse_inputs(latent)
    found = collapse_metrics(outputs)
    features = jnp.float32(latent64[:, 1:].mean(1))  # without CLS
    mean = targets.mean(0)
    expected = {
        "collapse/video_teacher_entropy": -(targets * np.log(targets)).sum(-1).mean(),
        "collapse/video_teacher_mean_entropy": -(mean * np.log(mean)).sum(),
        "collapse/audio_feature_spread": spread(features),
        "collapse/audio_feature_cosine": mean_cosine(features),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_collapse_metrics_have_no_gradient_in_the_features():
    latent, _ = draw(17, 4, 3, 5)

    def total(x):
        return sum(collapse_metrics(collapse_inputs(x)[0]).values())

    assert not np.asarray(jax.grad(total)(latent.astype(jnp.float32))).any()
