"""Network, view, center, temperature and weight of each term of the objective."""

import dataclasses
from unittest import mock

import jax.numpy as jnp
import jaxtyping
import numpy as np
import numpy_objective
import pytest
from numpy_networks import softmax
from stand_in_networks import OUTPUTS, WIDTH, Reference, patches, stand_in

from xkd_jax.config.directions import directions
from xkd_jax.config.loss_settings import LossConfig, LossWeights
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import (
    Inputs,
    head_of_mean,
    next_centers,
    objective,
    teach,
    weighted_mean,
)
from xkd_jax.networks.patches import Masking
from xkd_jax.networks.student import Student, Teacher

MODALITIES = ("video", "audio")
TOKENS = {"video": 6, "audio": 4}
LOCAL = {"video": 2, "audio": 3}
TEMPERATURES = {"video": 0.5, "audio": 0.8}
WEIGHTS = LossWeights(2.5, 1.7, 0.9, 0.4, 0.6, 0.3)
STUDENT, TEACHER, BATCH = 1, 2, 3


@pytest.fixture
def centers():
    rng = np.random.default_rng(4)
    return {name: rng.normal(size=OUTPUTS) for name in ("video_to_audio", "audio_to_video")}


def draw_inputs(local=LOCAL):
    """Views in float64, the order of tokens (kept ones first), and `Inputs` of them."""
    rng = np.random.default_rng(3)
    views, orders, masks = {}, {}, {}
    for m in MODALITIES:
        views[m] = {"global": rng.normal(size=(BATCH, TOKENS[m], WIDTH))}
        if local[m]:
            views[m]["local"] = rng.normal(size=(local[m], BATCH, TOKENS[m] - 1, WIDTH))
        orders[m] = rng.permuted(np.tile(np.arange(TOKENS[m]), (BATCH, 1)), axis=1)
        keep, restore = orders[m][:, :2], np.argsort(orders[m], axis=1)
        masks[m] = Masking(jnp.asarray(keep), jnp.asarray(restore))
    narrow = {m: {k: jnp.asarray(np.float32(v)) for k, v in of.items()} for m, of in views.items()}
    return views, orders, Inputs(narrow, masks)


def reference(views, orders, centers, config):
    """Terms, centers of the next step, and outputs of student and teacher."""
    student, teacher = Reference(STUDENT), Reference(TEACHER)
    terms, projected, seen, taught = {}, {}, {}, {}
    for m in MODALITIES:
        view, keep = views[m]["global"], orders[m][:, :2]
        latent = student.encode(m, view, keep)
        removed = np.ones(orders[m].shape, bool)
        np.put_along_axis(removed, keep, False, axis=1)
        prediction = student.decode(m, latent, np.argsort(orders[m], axis=1))
        terms[f"reconstruct_{m}"] = numpy_objective.reconstruction(
            patches(m, view), prediction, removed
        )
        locals_ = [student.encode(m, local) for local in views[m].get("local", [])]
        pooled = [tokens[:, 1:].mean(1) for tokens in (latent, *locals_)]
        projected[m] = np.stack([student.project(m, features) for features in pooled])
        seen[m] = view if config.teacher_view == "global" else views[m]["local"][0]
    for m, other in (MODALITIES, MODALITIES[::-1]):
        tokens = teacher.encode(m, seen[m])[:, 1:]
        if config.refinement != "none":
            own, others = (teacher.attention(n, seen[n]) for n in (m, other))
            tokens = numpy_objective.refine(tokens, own, others, config.refinement)
        taught[m] = teacher.project(m, tokens.mean(1))
    moved = {}
    for source, target in (MODALITIES, MODALITIES[::-1]):
        name = f"{source}_to_{target}"
        q = softmax((taught[source] - centers[name]) / TEMPERATURES[source])
        log_p = np.log(softmax(projected[target] / config.student_temperature))
        terms[f"distill_{name}"] = -(q * log_p).sum(-1).mean()
        momentum = config.center_momentum
        moved[name] = momentum * centers[name] + (1 - momentum) * taught[source].mean(0)
    terms["align_students"] = numpy_objective.squared_mmd(
        *(projected[m].reshape(-1, OUTPUTS) for m in MODALITIES)
    )
    terms["align_teachers"] = numpy_objective.squared_mmd(*(taught[m] for m in MODALITIES))
    return terms, moved, projected, taught


def compute(inputs, centers, config):
    return objective(
        stand_in(Student, STUDENT),
        stand_in(Teacher, TEACHER),
        {name: jnp.asarray(np.float32(center)) for name, center in centers.items()},
        {m: jnp.float32(value) for m, value in TEMPERATURES.items()},
        inputs,
        config,
    )


@pytest.mark.parametrize("refinement", ["mean", "softmax", "none"])
@pytest.mark.parametrize("teacher_view", ["global", "local"])
def test_every_term_equals_numpy(refinement, teacher_view, centers):
    config = LossConfig(
        weights=WEIGHTS, refinement=refinement, teacher_view=teacher_view,
        student_temperature=0.4, center_momentum=0.7,
    )  # fmt: skip
    views, orders, inputs = draw_inputs()
    outputs = compute(inputs, centers, config)
    terms, moved, projected, taught = reference(views, orders, centers, config)
    assert outputs.terms.keys() == terms.keys() == dataclasses.asdict(WEIGHTS).keys()
    for name, value in terms.items():
        np.testing.assert_allclose(outputs.terms[name], value, rtol=5e-4, err_msg=name)
    weights = dataclasses.asdict(WEIGHTS)
    total = sum(weights[n] * value for n, value in terms.items()) / sum(weights.values())
    np.testing.assert_allclose(outputs.loss, total, rtol=1e-4)
    for d in directions(MODALITIES):
        m = d.teacher
        found, teacher = outputs.projections[m], outputs.teachers[m]
        np.testing.assert_allclose(found.outputs, projected[m], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(teacher.output, taught[m], rtol=1e-3, atol=1e-4)
        latent = Reference(STUDENT).encode(m, views[m]["global"], orders[m][:, :2])
        np.testing.assert_allclose(outputs.latents[m], latent, rtol=1e-4, atol=1e-5)
        local = np.concatenate([Reference(STUDENT).encode(m, v) for v in views[m]["local"]])
        np.testing.assert_allclose(found.local_tokens, local, rtol=1e-4, atol=1e-5)
        assert (teacher.cls_attention is None) == (refinement == "none")
        assert (teacher.cross_attention is None) == (refinement == "none")
        seen = views[m]["global"] if teacher_view == "global" else views[m]["local"][0]
        tokens = Reference(TEACHER).encode(m, seen)
        np.testing.assert_allclose(teacher.tokens, tokens, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            outputs.targets[d].sum(-1), 1, rtol=1e-5, err_msg="a distribution a sample"
        )
        assert teacher.refined.shape == tokens[:, 1:].shape
        if refinement == "none":
            np.testing.assert_array_equal(teacher.refined, teacher.tokens[:, 1:])
        else:
            own = Reference(TEACHER).attention(m, seen)
            np.testing.assert_allclose(teacher.cls_attention, own, rtol=1e-4)
            assert teacher.cross_attention.shape == own.shape
    active = ActiveLosses.of(config.weights)
    narrow = {name: jnp.asarray(np.float32(center)) for name, center in centers.items()}
    following = next_centers(narrow, outputs, active.distilled, config.center_momentum)
    assert following.keys() == moved.keys()
    for name, value in moved.items():
        np.testing.assert_allclose(following[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", dataclasses.asdict(WEIGHTS))
def test_single_loss_equals_numpy_and_computes_nothing_else(name, centers):
    zeros = dict.fromkeys(dataclasses.asdict(WEIGHTS), 0.0)
    config = LossConfig(weights=LossWeights(**(zeros | {name: 0.7})))
    views, orders, inputs = draw_inputs()
    outputs = compute(inputs, centers, config)
    expected = reference(views, orders, centers, config)[0][name]
    assert outputs.terms.keys() == {name}
    np.testing.assert_allclose(outputs.terms[name], expected, rtol=5e-4)
    np.testing.assert_allclose(outputs.loss, expected, rtol=5e-4)
    kind, _, rest = name.partition("_")
    needs_teachers = kind == "distill" or rest == "teachers"
    assert outputs.teachers.keys() == (set(MODALITIES) if needs_teachers else set())
    distilled = {tuple(rest.split("_to_"))} if kind == "distill" else set()
    assert outputs.targets.keys() == distilled
    learners = {"distill": {rest.split("_")[-1]}, "align": set(MODALITIES)}.get(kind, set())
    assert outputs.projections.keys() == (set() if rest == "teachers" else learners)
    assert outputs.reconstructions.keys() == ({rest} if kind == "reconstruct" else set())
    active = ActiveLosses.of(config.weights)
    following = next_centers(centers_of(centers), outputs, active.distilled, 0.5)
    assert following.keys() == centers.keys()
    for direction in centers:
        moved = not np.allclose(following[direction], centers[direction])
        assert moved == (name == f"distill_{direction}"), direction


def centers_of(centers):
    return {name: jnp.asarray(np.float32(center)) for name, center in centers.items()}


def test_only_global_view_is_projected_without_local_views(centers):
    views, orders, inputs = draw_inputs({"video": 0, "audio": 3})
    config = LossConfig(weights=WEIGHTS)
    outputs = compute(inputs, centers, config)
    terms, _, projected, _ = reference(views, orders, centers, config)
    np.testing.assert_allclose(
        outputs.projections["video"].outputs, projected["video"], rtol=1e-3, atol=1e-4
    )
    assert outputs.projections["video"].local_tokens is None
    for name, value in terms.items():
        np.testing.assert_allclose(outputs.terms[name], value, rtol=5e-4, err_msg=name)


def test_tokens_of_bfloat16_are_averaged_in_float32():
    teacher = stand_in(Teacher, TEACHER)
    teacher.heads = {"audio": lambda features: features}
    tokens = jnp.asarray(np.float32([[[1.0], [2.0**-9]]])).astype(jnp.bfloat16)
    found = head_of_mean(teacher, "audio", tokens)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[(1 + 2.0**-9) / 2]])


def test_weighted_mean_names_differing_losses():
    with pytest.raises(AssertionError) as refused:
        weighted_mean({"b": jnp.float32(1), "a": jnp.float32(1)}, {"d": 1.0, "c": 1.0})
    assert str(refused.value) == "losses ['a', 'b'] are not the weighted ['c', 'd']"
    found = weighted_mean({"a": jnp.float32(1), "b": jnp.float32(4)}, {"a": 1.0, "b": 3.0})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 13 / 4)


@pytest.mark.parametrize("mode", ["mean", "softmax"])
def test_of_three_modalities_each_is_refined_by_the_tokens_of_all_others(mode, monkeypatch):
    # there is no third modality, which type checks would report
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    rng = np.random.default_rng(6)
    counts = {"video": 5, "audio": 4, "depth": 3}
    tokens = {m: rng.normal(size=(BATCH, 1 + n, WIDTH)) for m, n in counts.items()}
    attention = {m: rng.random((BATCH, 2, n)) / n for m, n in counts.items()}
    network = mock.NonCallableMagicMock(spec=Teacher)
    network.encoders = mock.Mock()
    network.encoders.with_cls_attention = lambda m, view: (
        jnp.float32(tokens[m]), jnp.float32(attention[m]),
    )  # fmt: skip
    network.heads = dict.fromkeys(counts, lambda features: features)
    views = {m: {"global": jnp.zeros((BATCH, 1))} for m in counts}
    found = teach(network, views, LossConfig(refinement=mode))
    for m in counts:
        others = np.concatenate([attention[n] for n in counts if n != m], axis=-1)
        refined = numpy_objective.refine(tokens[m][:, 1:], attention[m], others, mode)
        np.testing.assert_allclose(found[m].refined, refined, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[m].output, refined.mean(1), rtol=1e-4, atol=1e-5)
