import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_student, with_weights

from xkd_jax.config import MODALITIES, Config
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.objective import DIRECTIONS, Inputs, Needs, next_centres, objective
from xkd_jax.state import builder


def change(config: Config, **sections) -> Config:
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(getattr(config, name), **values)
            for name, values in sections.items()
        },
    )


def evaluation(config, views):
    """A function of the student's parameters that evaluates the objective."""
    as_student, as_teacher = builder(Student, config), builder(Teacher, config)

    def run(student):
        return objective(
            as_student(student),
            as_teacher(teacher_counterpart(student, config)),
            {d: jnp.zeros(config.model.head.outputs) for d in DIRECTIONS},
            make_inputs(config, views),
            config,
        )

    return run


def evaluate(config, views):
    return jax.jit(evaluation(config, views))(random_student(config))


def shapes(config, views):
    """What would be computed, without computing it."""
    return jax.eval_shape(evaluation(config, views), random_student(config))


def make_inputs(config, views, seed=0):
    rng = np.random.default_rng(seed)
    return Inputs(
        views=views,
        mask_noise={
            m: rng.random((len(views[m]["global"]), config.modality(m).tokens)) for m in MODALITIES
        },
        teacher_temperature={"video": 0.1, "audio": 0.07},
    )


def test_total_is_the_papers_weighting(small, make_views):
    loss, terms, _ = evaluate(small, make_views(small))
    recon = (terms["reconstruct_video"] + terms["reconstruct_audio"]) / 2
    kd = (terms["distill_video_to_audio"] + terms["distill_audio_to_video"]) / 2
    da = (terms["align_students"] + terms["align_teachers"]) / 2
    np.testing.assert_allclose(loss, (5 * recon + kd + da) / 7, rtol=1e-6)


def test_local_views_of_each_modality_count_apart(small, make_views):
    config = change(small, video={"local_views": 3}, audio={"local_views": 0})
    _, _, out = shapes(config, make_views(config))
    assert out["video_student_output"].shape == (4, 8, 48)
    assert out["audio_student_output"].shape == (1, 8, 48)


def test_teacher_sees_the_whole_global_view_or_the_first_local_one(small, make_views):
    views = make_views(small)
    _, _, out = shapes(small, views)
    assert out["video_teacher_tokens"].shape[1] == 1 + small.video.tokens
    local = change(small, loss={"teacher_view": "local"})
    _, _, out = shapes(local, views)
    assert out["video_teacher_tokens"].shape[1] == 1 + 1


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
def test_what_a_zero_weighted_loss_needs_is_not_computed(
    small, make_views, weights, teachers, projected
):
    config = with_weights(small, **weights)
    needs = Needs.of(config)
    assert (needs.teachers, needs.projected) == (teachers, projected)
    _, terms, out = shapes(config, make_views(small))
    assert set(terms) == set(weights)
    assert ("video_teacher_tokens" in out) == teachers
    for m in ("video", "audio"):
        assert (f"{m}_student_output" in out) == (m in projected)
        assert (f"{m}_prediction" in out) == (f"reconstruct_{m}" in weights)
        encoded = m in projected or f"reconstruct_{m}" in weights
        assert (f"{m}_latent" in out) == encoded


def test_without_refinement_no_attention_is_computed(small, make_views):
    config = change(small, loss={"refinement": "none"})
    _, _, out = shapes(config, make_views(small))
    assert not [name for name in out if "attention" in name]


def test_refinement_changes_the_teachers(small, make_views):
    views = make_views(small)
    outputs = [
        evaluate(change(small, loss={"refinement": mode}), views)[2]["audio_teacher_output"]
        for mode in ("none", "mean", "softmax")
    ]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    assert np.abs(outputs[1] - outputs[2]).max() > 1e-4


def test_centres_move_only_for_directions_that_are_distilled(small, make_views):
    config = with_weights(small, distill_video_to_audio=1.0)
    _, _, out = evaluate(config, make_views(small))
    centres = {d: jnp.zeros(48) for d in DIRECTIONS}
    moved = next_centres(centres, out, config)
    np.testing.assert_allclose(
        moved["video_to_audio"], 0.1 * out["video_teacher_output"].mean(0), rtol=1e-4, atol=1e-6
    )
    assert not moved["audio_to_video"].any()
