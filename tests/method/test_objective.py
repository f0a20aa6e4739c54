import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_objective
import pytest
from method_inputs import change, make_inputs, mask_noise, with_weights
from random_parameters import random_student

from data_pipelines.errors import UserError
from data_pipelines.loader_config import MODALITIES
from xkd_jax.config.directions import Direction, directions
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import next_centers, objective
from xkd_jax.method.train_state import module_of
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart

TEMPERATURES = {"video": 0.11, "audio": 0.07}
# All weights differ, so that swapped terms change the total.
WEIGHTS = {
    "reconstruct_video": 2.5,
    "reconstruct_audio": 1.7,
    "distill_video_to_audio": 0.9,
    "distill_audio_to_video": 0.4,
    "align_students": 0.6,
    "align_teachers": 0.3,
}


def random_teacher(config, seed=1):
    teacher = teacher_counterpart(random_student(config, seed), config.architecture)
    return jax.tree.map(jnp.asarray, teacher)


def random_centers(config):
    rng = np.random.default_rng(5)
    return {
        d.name: 0.3 * rng.normal(size=config.model.head.outputs) for d in directions(MODALITIES)
    }


def evaluation(config, inputs, teacher, centers):
    """A function of the student's parameters that evaluates the objective."""

    def run(student):
        return objective(
            module_of(Student, student, config.architecture),
            module_of(Teacher, teacher, config.architecture),
            {name: jnp.asarray(c, jnp.float32) for name, c in centers.items()},
            {m: jnp.float32(t) for m, t in TEMPERATURES.items()},
            inputs,
            config.loss,
        )

    return run


def evaluate(config, views):
    run = evaluation(
        config, make_inputs(config, views), random_teacher(config), random_centers(config)
    )
    return jax.jit(run)(random_student(config))


def shapes(config, views):
    """Returns the jaxpr of the objective."""
    run = evaluation(
        config, make_inputs(config, views), random_teacher(config), random_centers(config)
    )
    return jax.eval_shape(run, random_student(config))


CASES = {
    "paper": {},
    "mas, softmax, teachers see the local view": {
        "model": {"variant": "mas"},
        "loss": {"refinement": "softmax", "teacher_view": "local", "student_temperature": 0.2},
        "video": {"local_views": 2},
    },
    "mats, no refinement, no local audio views": {
        "model": {"variant": "mats"},
        "loss": {"refinement": "none", "center_momentum": 0.8},
        "audio": {"local_views": 0, "mask_ratio": 0.75},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.heavy] if "mas" in name else []) for name in CASES],
)
def test_objective_and_gradient_equal_float64_numpy(small, make_views, name):
    config = with_weights(change(small, **CASES[name]), **WEIGHTS)
    views, centers = make_views(config), random_centers(config)
    inputs = make_inputs(config, views)
    student, teacher = random_student(config), random_teacher(config)

    def both(params):
        outputs = evaluation(config, inputs, teacher, centers)(params)
        return outputs.loss, outputs

    gradients, outputs = jax.jit(jax.grad(both, has_aux=True))(student)

    def numpy_objective_of(params):
        params, teacher64, views64 = jax.tree.map(
            lambda a: np.asarray(a, np.float64), (params, teacher, views)
        )
        noise = mask_noise(config, config.batch_size)
        return numpy_objective.objective(
            params, teacher64, centers, TEMPERATURES, views64, noise, config
        )

    loss, terms, moved = numpy_objective_of(student)
    for term, expected in terms.items():
        np.testing.assert_allclose(outputs.terms[term], expected, rtol=2e-4, err_msg=term)
    np.testing.assert_allclose(outputs.loss, loss, rtol=1e-5)
    active = ActiveLosses.of(config.loss.weights)
    found = next_centers(
        {name: jnp.asarray(c, jnp.float32) for name, c in centers.items()},
        outputs, active.distilled, config.loss.center_momentum,
    )  # fmt: skip
    for direction, expected in moved.items():
        np.testing.assert_allclose(found[direction], expected, rtol=1e-4, atol=1e-5)

    # The derivative along a random direction of all parameters, by central differences.
    rng = np.random.default_rng(3)
    along = jax.tree.map(lambda a: rng.normal(size=a.shape), student)
    ahead, behind = (
        numpy_objective_of(jax.tree.map(lambda a, d, h=h: a + h * d, student, along))[0]
        for h in (1e-6, -1e-6)
    )
    derivative = sum(
        float(np.sum(np.asarray(g, np.float64) * d))
        for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(along), strict=True)
    )
    np.testing.assert_allclose(derivative, (ahead - behind) / 2e-6, rtol=2e-3)


def test_total_has_weights_of_the_paper(small, make_views):
    outputs = evaluate(small, make_views(small))
    terms = outputs.terms
    recon = (terms["reconstruct_video"] + terms["reconstruct_audio"]) / 2
    kd = (terms["distill_video_to_audio"] + terms["distill_audio_to_video"]) / 2
    da = (terms["align_students"] + terms["align_teachers"]) / 2
    np.testing.assert_allclose(outputs.loss, (5 * recon + kd + da) / 7, rtol=1e-6)


def test_modalities_may_have_different_numbers_of_local_views(small, make_views):
    config = change(small, video={"local_views": 3}, audio={"local_views": 0})
    projections = shapes(config, make_views(config)).projections
    assert projections["video"].outputs.shape == (4, 8, 48)
    assert projections["audio"].outputs.shape == (1, 8, 48)


def test_directions_are_all_ordered_pairs():
    assert directions(MODALITIES) == (Direction("video", "audio"), Direction("audio", "video"))
    assert directions(("audio",)) == ()
    assert {d.name for d in directions("abc")} == {
        "a_to_b", "a_to_c", "b_to_a", "b_to_c", "c_to_a", "c_to_b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "weights,teachers,projected",
    [
        ({"reconstruct_video": 1.0}, False, ()),
        ({"reconstruct_video": 1.0, "reconstruct_audio": 1.0}, False, ()),
        ({"align_students": 1.0}, False, ("video", "audio")),
        ({"align_teachers": 1.0}, True, ()),
        ({"distill_video_to_audio": 1.0}, True, ("audio",)),
        ({"distill_audio_to_video": 1.0, "reconstruct_audio": 1.0}, True, ("video",)),
        ({"distill_audio_to_video": 1.0, "align_students": 1.0}, True, ("video", "audio")),
    ],
)
def test_inputs_of_zero_weighted_losses_are_not_computed(
    small, make_views, weights, teachers, projected
):
    config = with_weights(small, **weights)
    active = ActiveLosses.of(config.loss.weights)
    assert (active.uses_teachers, active.projected) == (teachers, projected)
    outputs = shapes(config, make_views(small))
    assert set(outputs.terms) == set(weights)
    assert set(outputs.teachers) == ({"video", "audio"} if teachers else set())
    assert set(outputs.projections) == set(projected)
    reconstructed = {m for m in ("video", "audio") if f"reconstruct_{m}" in weights}
    assert set(outputs.reconstructions) == reconstructed
    assert set(outputs.latents) == reconstructed | set(projected)


def test_without_refinement_no_attention_is_computed(small, make_views):
    config = change(small, loss={"refinement": "none"})
    for teacher in shapes(config, make_views(small)).teachers.values():
        assert teacher.cls_attention is None
        assert teacher.cross_attention is None


def test_only_centers_of_distilled_directions_move(small, make_views):
    config = with_weights(small, distill_video_to_audio=1.0)
    outputs = evaluate(config, make_views(small))
    centers = {d.name: jnp.zeros(48) for d in directions(MODALITIES)}
    moved = next_centers(centers, outputs, ActiveLosses.of(config.loss.weights).distilled, 0.9)
    np.testing.assert_allclose(
        moved["video_to_audio"],
        0.1 * outputs.teachers["video"].output.mean(0),
        rtol=1e-4,
        atol=1e-6,
    )
    assert not moved["audio_to_video"].any()


def test_unknown_alignment_loss_is_refused_with_choices(small, make_views):
    config = change(small, loss={"alignment": "coral"})
    with pytest.raises(UserError, match=r"loss.alignment is 'coral': give one of mmd"):
        shapes(config, make_views(small))


def test_weights_and_terms_must_have_the_same_names(small):
    from xkd_jax.method.objective import weighted_mean

    assert set(dataclasses.asdict(small.loss.weights)) == set(WEIGHTS)
    with pytest.raises(AssertionError, match="are not the weighted"):
        weighted_mean({"a": jnp.float32(1)}, {"b": 1.0})
