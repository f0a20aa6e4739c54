"""The training step with a toy objective: its arguments, order of updates, and results."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xkd_jax.config.architecture import ModelConfig
from xkd_jax.config.directions import Direction
from xkd_jax.config.loss_settings import LossConfig, LossWeights
from xkd_jax.config.pretraining import Config, MeshConfig, NonfiniteConfig, OptimizerConfig
from xkd_jax.method import train_step as module
from xkd_jax.method.active_losses import ActiveLosses
from xkd_jax.method.objective import Inputs, ObjectiveOutputs, TeacherOutputs
from xkd_jax.method.optimizer import optimizer
from xkd_jax.method.random_streams import mask_stream, stream_key
from xkd_jax.method.schedules import Schedules
from xkd_jax.method.train_state import TrainState
from xkd_jax.method.train_step import (
    gradient_norms,
    inputs_of,
    keep_finite,
    loss_and_gradients,
    moving_average,
    train_step,
)
from xkd_jax.networks.patches import random_masking
from xkd_jax.networks.student import Student, Teacher

STEP = 3
CONFIG = Config(
    batch_size=2,
    seed=5,
    model=ModelConfig(variant="mas", size="8/1/2:8/1/2", compute_dtype="float32"),
    loss=LossConfig(weights=LossWeights(1.0, 0.0, 0.5, 0.0, 0.0, 0.0), center_momentum=0.7),
    optimizer=OptimizerConfig(clip=0.5, eps=0.1),
)
SCHEDULES = Schedules(
    learning_rate=lambda step: 0.1 / (1.0 + step),
    weight_decay=lambda step: 0.2 + 0.1 * step,
    ema=lambda step: 0.5 + 0.1 * step,
    teacher_temperature={"video": lambda step: 0.2 * step, "audio": lambda step: 0.3 * step},
)
CENTERS = {"video_to_audio": np.float32([1.0, -2.0]), "audio_to_video": np.float32([3.0, 4.0])}
FACTORS = {"encoders": 1.0, "heads": 2.0, "decoders": 3.0}


def arrays(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=n), jnp.float32) for name, n in shapes.items()}


def norms(video, audio):
    return {"video": arrays(video, scale=3), "audio": arrays(audio, scale=3)}


def students():
    return {
        "encoders": {"blocks": {"shared": arrays(0, kernel=(2, 3))}, "norms": norms(1, 8)},
        "heads": {"audio": arrays(2, kernel=(3, 2))},
        "decoders": {"video": arrays(3, kernel=(2, 2), bias=2)},
    }


def teachers():
    blocks = {"video": arrays(4, kernel=(2, 3)), "audio": arrays(5, kernel=(2, 3))}
    return {
        "encoders": {"blocks": blocks, "norms": norms(6, 9)},
        "heads": {"audio": arrays(7, kernel=(3, 2))},
    }


def start(config=CONFIG):
    active = ActiveLosses.of(config.loss.weights)
    return TrainState(
        step=jnp.int32(STEP),
        student=students(),
        teacher=teachers(),
        centers={name: jnp.asarray(center) for name, center in CENTERS.items()},
        optimizer=optimizer(config.optimizer, SCHEDULES, active).init(students()),
    )


def factor(teacher, centers, temperatures, view):
    """The factors of the toy loss: each argument of the objective has another effect."""
    return (
        1
        + float(np.sum(teacher["heads"]["audio"]["kernel"])) ** 2
        + float(np.sum(centers["video_to_audio"])) ** 2
        + 10 * float(temperatures["video"])
        + 100 * float(temperatures["audio"])
        + float(np.sum(view))
    )


def temperatures_at_step():
    """The temperatures of `SCHEDULES` at `STEP`."""
    return {"video": jnp.float32(0.2 * STEP), "audio": jnp.float32(0.3 * STEP)}


@pytest.fixture
def toy(monkeypatch):
    """Replaces the objective by a quadratic function of the parameters."""
    seen = []

    def module_of(cls, params, architecture):
        assert architecture.model is CONFIG.model
        return cls, params

    def objective(student, teacher, centers, temperatures, inputs, config):
        (student_class, params), (teacher_class, fixed) = student, teacher
        assert (student_class, teacher_class) == (Student, Teacher)
        seen.append((config, jax.config.jax_default_matmul_precision))
        view = inputs.views["video"]["global"]
        weight = (
            1
            + fixed["heads"]["audio"]["kernel"].sum() ** 2
            + centers["video_to_audio"].sum() ** 2
            + 10 * temperatures["video"]
            + 100 * temperatures["audio"]
            + view.sum()
        )
        squares = {
            name: FACTORS[name] * sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(group))
            for name, group in params.items()
        }
        loss = weight * sum(squares.values())
        none = jnp.zeros((2, 3, 4))
        outputs = {
            m: TeacherOutputs(none, none, view * scale)
            for m, scale in (("video", 1.0), ("audio", 2.0))
        }
        return ObjectiveOutputs(
            loss=loss, terms=squares, latents={"video": none + 1}, reconstructions={},
            projections={}, teachers=outputs,
            targets={Direction("video", "audio"): jax.nn.softmax(view)},
        )  # fmt: skip

    monkeypatch.setattr(module, "module_of", module_of)
    monkeypatch.setattr(module, "objective", objective)
    return seen


VIEW = np.float32([[0.5, 2.0], [1.5, -1.0]])


def inputs(view=VIEW):
    return Inputs({"video": {"global": jnp.asarray(view)}}, {})


def expected_gradients(state, view=VIEW):
    scale = 2 * factor(state.teacher, state.centers, temperatures_at_step(), view)
    return {
        name: jax.tree.map(lambda w, name=name: scale * FACTORS[name] * w, group)
        for name, group in state.student.items()
    }


def assert_close(found, expected, rtol=1e-5):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected
    )


def test_loss_and_gradients_are_those_of_the_objective(toy):
    state = start()
    outputs, gradients = loss_and_gradients(
        state, temperatures_at_step(), inputs(), CONFIG.architecture, CONFIG.loss
    )
    assert_close(gradients, expected_gradients(state))
    total = factor(state.teacher, state.centers, {"video": 0.6, "audio": 0.9}, VIEW) * sum(
        outputs.terms.values()
    )
    np.testing.assert_allclose(outputs.loss, total, rtol=1e-5)
    assert toy == [(CONFIG.loss, "highest")]


def run_step(state, view=VIEW, config=CONFIG):
    calls = []

    def make_inputs(*arguments):
        calls.append(arguments)
        return inputs(view)

    following, metrics = train_step(
        state,
        "batch",
        make_inputs=make_inputs,
        architecture=config.architecture,
        loss=config.loss,
        transformation=optimizer(config.optimizer, SCHEDULES, ActiveLosses.of(config.loss.weights)),
        schedules=SCHEDULES,
        split=config.mesh.optimizer == "split",
        skip_nonfinite=config.nonfinite.action == "skip",
    )
    assert calls == [("batch", state.step)]
    return following, metrics


def test_step_updates_students_then_teachers_and_centers(toy):
    state = start()
    following, _ = run_step(state)
    transformation = optimizer(CONFIG.optimizer, SCHEDULES, ActiveLosses.of(CONFIG.loss.weights))
    updates, counts = transformation.update(
        expected_gradients(state), state.optimizer, state.student
    )
    student = optax.apply_updates(state.student, updates)
    assert following.step == STEP + 1
    assert following.step.dtype == jnp.int32
    assert_close(following.student, student, 1e-4)
    assert_close(following.optimizer, counts, 1e-4)
    # The teachers follow the updated student, whose blocks `mas` shares, at this step's momentum.
    shared = student["encoders"]["blocks"]["shared"]["kernel"]
    for m in ("video", "audio"):
        np.testing.assert_allclose(
            following.teacher["encoders"]["blocks"][m]["kernel"],
            0.8 * state.teacher["encoders"]["blocks"][m]["kernel"] + 0.2 * shared,
            rtol=1e-4,
        )
    np.testing.assert_allclose(
        following.teacher["heads"]["audio"]["kernel"],
        0.8 * state.teacher["heads"]["audio"]["kernel"] + 0.2 * student["heads"]["audio"]["kernel"],
        rtol=1e-4,
    )
    # The one direction that has a weight.
    np.testing.assert_allclose(
        following.centers["video_to_audio"],
        0.7 * CENTERS["video_to_audio"] + 0.3 * VIEW.mean(0),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(following.centers["audio_to_video"], CENTERS["audio_to_video"])


def test_split_step_computes_with_gathered_weights_and_divided_gradients(toy, monkeypatch):
    """Both functions are replaced by factors; the update is that of the parts of a device."""
    factors = {Student: 2.0, Teacher: 3.0}

    def scaled(tree, by):
        return jax.tree.map(lambda leaf: by * leaf, tree)

    def gathered(cls, params, architecture):
        assert architecture == CONFIG.architecture
        return scaled(params, factors[cls])

    def divided(cls, gradients, architecture):
        assert (cls, architecture) == (Student, CONFIG.architecture)
        return scaled(gradients, 5.0)

    monkeypatch.setattr(module, "gathered", gathered)
    monkeypatch.setattr(module, "divided", divided)
    state = start()
    following, metrics = run_step(
        state, config=dataclasses.replace(CONFIG, mesh=MeshConfig(optimizer="split"))
    )
    whole = state.replace(student=scaled(state.student, 2.0), teacher=scaled(state.teacher, 3.0))
    gradients = scaled(expected_gradients(whole), 5.0)
    transformation = optimizer(CONFIG.optimizer, SCHEDULES, ActiveLosses.of(CONFIG.loss.weights))
    updates, counts = transformation.update(gradients, state.optimizer, state.student)
    student = optax.apply_updates(state.student, updates)
    assert_close(following.student, student, 1e-4)
    assert_close(following.optimizer, counts, 1e-4)
    np.testing.assert_allclose(
        following.teacher["heads"]["audio"]["kernel"],
        0.8 * state.teacher["heads"]["audio"]["kernel"] + 0.2 * student["heads"]["audio"]["kernel"],
        rtol=1e-4,
    )
    norm = np.sqrt(sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(gradients)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)


def test_step_with_whole_optimizer_moves_no_weights(toy, monkeypatch):
    monkeypatch.delattr(module, "gathered")
    monkeypatch.delattr(module, "divided")
    run_step(start())
    assert toy == [(CONFIG.loss, "highest")]


def test_metrics_of_a_step_have_their_values(toy):
    state = start()
    _, metrics = run_step(state)
    outputs, gradients = loss_and_gradients(
        state, temperatures_at_step(), inputs(), CONFIG.architecture, CONFIG.loss
    )
    squares = {
        name: sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(group))
        for name, group in gradients.items()
    }
    expected = {
        "loss": outputs.loss,
        **{f"loss/{name}": term for name, term in outputs.terms.items()},
        "gradient_norm": np.sqrt(sum(squares.values())),
        **{f"gradient_norm/{name}": np.sqrt(square) for name, square in squares.items()},
        "schedule/learning_rate": 0.1 / 4,
        "schedule/ema": 0.8,
        "collapse/video_feature_spread": 0.0,
        "collapse/video_feature_cosine": 1.0,
    }
    targets = np.exp(VIEW) / np.exp(VIEW).sum(1, keepdims=True)
    entropies = {"": targets, "mean_": targets.mean(0, keepdims=True)}
    for kind, of in entropies.items():
        expected[f"collapse/video_teacher_{kind}entropy"] = -(of * np.log(of)).sum(1).mean()
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def with_action(action):
    return dataclasses.replace(CONFIG, nonfinite=NonfiniteConfig(action=action))


@pytest.mark.parametrize("action", ["stop", "skip", "rollback"])
def test_only_skip_keeps_state_of_nonfinite_step(toy, action):
    state = start()
    following, metrics = run_step(state, np.float32([[np.nan, 0], [0, 0]]), with_action(action))
    assert np.isnan(metrics["loss"])
    assert following.step == STEP + 1
    kept = np.isfinite(following.student["heads"]["audio"]["kernel"]).all()
    assert kept == (action == "skip")
    if kept:
        assert_close(following.student, state.student)
        assert_close(following.teacher, state.teacher)
        assert_close(following.centers, state.centers)


def test_skip_applies_finite_step(toy):
    state = start()
    taken, _ = run_step(state, config=with_action("skip"))
    expected, _ = run_step(state)
    assert_close(taken, expected)


@pytest.mark.parametrize("bad", ["loss", "norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_nonfinite_metric_keeps_state_except_counters(bad, value):
    old, new = start(), jax.tree.map(lambda leaf: leaf + 1, start())
    metrics = {"loss": jnp.float32(1), "norm": jnp.float32(2)}
    assert_close(keep_finite(old, new, metrics), new)
    kept = keep_finite(old, new, metrics | {bad: jnp.float32(value)})
    assert_close(kept.student, old.student)
    assert_close(kept.centers, old.centers)
    assert kept.step == STEP + 1
    integers = [leaf for leaf in jax.tree.leaves(kept.optimizer) if leaf.dtype == jnp.int32]
    assert integers
    assert all(leaf == 1 for leaf in integers)


def test_moving_average_of_each_leaf():
    teacher = {"a": jnp.float32([1, 2]), "b": jnp.float32(3)}
    student = {"a": jnp.float32([5, 6]), "b": jnp.float32(7)}
    found = moving_average(teacher, student, jnp.float32(0.75))
    assert_close(found, {"a": jnp.float32([2, 3]), "b": jnp.float32(4)})


def test_gradient_norms_of_groups_and_of_all():
    squares = {
        "encoders": {"a": jnp.float32([9, 7]), "b": jnp.float32(9)},
        "heads": jnp.float32(144),
    }
    found = gradient_norms(squares)
    expected = {"gradient_norm": 13, "gradient_norm/encoders": 5, "gradient_norm/heads": 12}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_inputs_are_augmented_views_and_masks_of_their_stream(monkeypatch):
    video = dataclasses.replace(CONFIG.video, frames=4, size=8, patch=(2, 4, 4), mask_ratio=0.75)
    audio = dataclasses.replace(CONFIG.audio, mels=8, columns=8, patch=(4, 4), mask_ratio=0.25)
    config = dataclasses.replace(CONFIG, video=video, audio=audio)
    views = {"video": {"global": jnp.zeros((3, 2))}, "audio": {"global": jnp.ones((3, 2))}}
    calls = []

    def augment(*arguments):
        calls.append(arguments)
        return views

    monkeypatch.setattr(module, "augment", augment)
    found = inputs_of("batch", jnp.int32(7), config)
    assert calls == [(config, "batch")]
    assert found.views is views
    streams = {"video": (mask_stream("video"), 8, 0.75), "audio": (mask_stream("audio"), 4, 0.25)}
    assert found.masks.keys() == streams.keys()
    for m, (stream, tokens, ratio) in streams.items():
        noise = jax.random.uniform(stream_key(5, stream, 7), (3, tokens))
        expected = random_masking(noise, ratio)
        np.testing.assert_array_equal(found.masks[m].keep, expected.keep)
        np.testing.assert_array_equal(found.masks[m].restore, expected.restore)
        assert found.masks[m].keep.shape == (3, round(tokens * (1 - ratio)))
