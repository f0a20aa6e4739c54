import dataclasses
import functools
import importlib
from pathlib import Path

import jax
import numpy as np
import pytest
from method_inputs import (
    change,
    first_state,
    learning,
    make_inputs,
    schedules_of,
    start,
    step_of_inputs,
    with_weights,
)

from data_pipelines.read import views
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import resolve
from xkd_jax.method.collapse_metrics import information
from xkd_jax.method.objective import objective
from xkd_jax.method.random_streams import INITIALIZE, mask_stream, stream_key
from xkd_jax.method.state_shardings import abstract_state
from xkd_jax.method.train_state import initial_state, is_count, module_of
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.student import Student, Teacher, teacher_counterpart
from xkd_jax.training.compiled_run import optimizer_of, step_of


@pytest.fixture(scope="module")
def xkd(small, make_views):
    """The small configuration, its first state, step and schedules, and views."""
    config = learning(small)
    return config, *start(config), make_views(config)


def assert_learns_and_teachers_follow(config, state, step, plan, views) -> list[float]:
    """Returns the losses of some steps."""
    inputs = make_inputs(config, views)
    losses = []
    for _ in range(4):
        previous = state
        state, metrics = step(state, inputs)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    momentum = float(plan.ema(3))
    expected = jax.tree.map(
        lambda t, s: momentum * t + (1 - momentum) * s,
        previous.teacher,
        teacher_counterpart(state.student, config.architecture),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.teacher,
        expected,
    )
    shared = {"xkd": (False, False), "mas": (True, False), "mats": (True, True)}
    trees = (state.student, state.teacher)
    for tree, is_shared in zip(trees, shared[config.model.variant], strict=True):
        assert (SHARED in tree["encoders"]["blocks"]) == is_shared
    return losses


def test_students_change_and_teachers_follow(xkd):
    assert_learns_and_teachers_follow(*xkd)


@pytest.mark.heavy
def test_mas_and_mats_differ_from_xkd_only_in_settings(small, make_views):
    """Both teachers of `mas` follow the shared student from the start, and stay equal."""
    few = with_weights(
        change(small, video={"local_views": 0}, audio={"local_views": 0}),
        reconstruct_video=1.0,
        align_teachers=1.0,
    )
    losses = []
    for variant in ("mas", "mats"):
        config = change(learning(few), model={"variant": variant, "size": "16/1/2:8/1/2"})
        views = make_views(config)
        losses.append(assert_learns_and_teachers_follow(config, *start(config), views))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_nonfinite_step_can_be_skipped(xkd):
    config, state, step, _, views = xkd
    state, metrics = step(state, make_inputs(config, views))
    assert np.isfinite(metrics["loss"])
    bad = jax.tree.map(np.copy, views)
    bad["video"]["global"][0, 0, 0, 0, 0] = np.nan
    after, metrics = step(state, make_inputs(config, bad))
    assert np.isnan(metrics["loss"])
    assert int(after.step) == 2
    jax.tree.map(
        lambda a, b: None if is_count(a) else np.testing.assert_array_equal(a, b), state, after
    )


def test_teachers_are_initialized_from_students(small):
    config = change(small, model={"variant": "mas"})
    optimizer = optimizer_of(config, schedules_of(config))
    key = stream_key(0, INITIALIZE)
    state = jax.jit(lambda: initial_state(key, config.architecture, optimizer))()
    blocks = state.teacher["encoders"]["blocks"]
    own = state.student["encoders"]["blocks"][SHARED]
    for modality in ("video", "audio"):
        jax.tree.map(np.testing.assert_array_equal, blocks[modality], own)


def terms(config, plan, state, inputs):
    """The objective's terms at a state."""
    student = module_of(Student, state.student, config.architecture)
    teacher = module_of(Teacher, state.teacher, config.architecture)
    temperatures = {m: of(state.step) for m, of in plan.teacher_temperature.items()}
    return objective(student, teacher, state.centers, temperatures, inputs, config.loss).terms


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(small, make_views):
    """Parameters and losses are float32, and close to those of float32 compute."""
    inputs = make_inputs(small, make_views(small))
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = change(learning(small), model={"compute_dtype": dtype})
        plan = schedules_of(config)
        state = first_state(config, plan)
        losses.append(jax.jit(functools.partial(terms, config, plan))(state, inputs))
    after, _ = jax.eval_shape(step_of_inputs(config, plan), state, inputs)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after.student)} == {"float32"}
    float32, bfloat16 = losses
    for name, value in bfloat16.items():
        assert np.isfinite(value)
        assert value.dtype == "float32"
        if name.startswith("reconstruct"):
            np.testing.assert_allclose(value, float32[name], rtol=0.02)
            assert value != float32[name]


def test_metrics_have_losses_schedules_norms_and_collapse(xkd):
    config, state, step, _, views = xkd
    _, metrics = step(state, make_inputs(config, views))
    for weight in dataclasses.asdict(config.loss.weights):
        assert f"loss/{weight}" in metrics
    for name in (
        "schedule/learning_rate",
        "schedule/ema",
        "gradient_norm/encoders",
        "gradient_norm/heads",
        "gradient_norm/decoders",
        "collapse/video_teacher_entropy",
        "collapse/audio_teacher_mean_entropy",
        "collapse/video_feature_spread",
        "collapse/audio_feature_cosine",
    ):
        assert np.isfinite(metrics[name]), name
    assert all(value.shape == () for value in metrics.values())


def test_page_of_curves_explains_each_metric(xkd):
    config, state, step, _, views = xkd
    _, metrics = step(state, make_inputs(config, views))
    page = (Path(__file__).parents[2] / "docs" / "curves.md").read_text(encoding="utf-8")
    derived = information(dict.fromkeys(metrics, 0.0))
    assert len(derived) == 2
    assert [name for name in [*metrics, *derived] if f"`{name}`" not in page] == []


def test_random_streams_differ_and_change_with_step():
    keys = {
        tuple(np.asarray(jax.random.key_data(stream_key(seed, stream, step))))
        for seed in (0, 1)
        for stream in (INITIALIZE, mask_stream("video"), mask_stream("audio"))
        for step in (0, 1)
    }
    assert len(keys) == 2 * 3 * 2


def batch_shapes(config):
    """A batch of the pipeline, as shapes."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((config.batch_size, *np.shape(leaf)), leaf.dtype),
        jax.tree.map(np.asarray, views.blank_views(config)),
    )


@pytest.mark.parametrize(
    "name",
    [
        "k400", "k400:mas", "k400:mats", "k400:reconstruction_audio", "audioset:alignment", "demo",
        "demo:reconstruction_video",
    ],
)  # fmt: skip
def test_every_experiment_traces_a_step_at_full_size(name):
    module, _, variant = name.partition(":")
    raw = importlib.import_module(f"configs.{module}").get_config(*filter(None, [variant]))
    config = resolve(raw)
    plan = schedules_of(config, Length(100, 10))
    transformation = optimizer_of(config, plan)
    state = abstract_state(config.architecture, transformation)
    step = step_of(config, plan, transformation)
    after, metrics = jax.eval_shape(step, state, batch_shapes(config))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert metrics["loss"].dtype == np.float32
