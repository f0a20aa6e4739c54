import dataclasses
import functools
import importlib
import random

import jax
import numpy as np
import pytest
from method_inputs import LENGTH, change, learning, make_inputs, optimizer_of, step_of_inputs

from data_pipelines.read import views
from xkd_jax.config.pretraining import resolve
from xkd_jax.method.random_streams import Stream, stream_key
from xkd_jax.method.schedules import Length, schedules
from xkd_jax.method.state_shardings import abstract_state
from xkd_jax.method.train_state import initial_state, is_count
from xkd_jax.method.train_step import train_step
from xkd_jax.networks.encoder import SHARED
from xkd_jax.networks.student import teacher_counterpart


def learns_and_skips(config):
    """For all tests here: the step compiles once."""
    return learning(change(config, nonfinite={"action": "skip"}))


def initial(config, plan):
    return jax.jit(
        lambda: initial_state(stream_key(0, Stream.INITIALIZE), config, optimizer_of(config, plan))
    )()


def start(config):
    plan = schedules(config, LENGTH)
    return initial(config, plan), jax.jit(step_of_inputs(config, plan)), plan


def learns_and_teachers_follow(small, make_views, variant) -> list[float]:
    """Returns the losses of some steps."""
    config = change(learns_and_skips(small), model={"variant": variant})
    state, step, plan = start(config)
    inputs = make_inputs(config, make_views(config))
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
        teacher_counterpart(state.student, config.model),
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.teacher,
        expected,
    )
    shared = {"xkd": (False, False), "mas": (True, False), "mats": (True, True)}[variant]
    for tree, is_shared in zip((state.student, state.teacher), shared, strict=True):
        assert (SHARED in tree["encoders"]["blocks"]) == is_shared
    return losses


def test_students_learn_and_teachers_follow(small, make_views):
    learns_and_teachers_follow(small, make_views, "xkd")


def test_mas_and_mats_learn_and_differ_in_settings_alone(small, make_views):
    """Each teacher of `mas` starts as the one student and follows it: they stay the same."""
    mas, mats = (learns_and_teachers_follow(small, make_views, v) for v in ("mas", "mats"))
    np.testing.assert_allclose(mas, mats, rtol=1e-5)


def test_a_step_that_is_not_finite_can_be_skipped(small, make_views):
    config = learns_and_skips(small)
    state, step, _ = start(config)
    views = make_views(config)
    state, metrics = step(state, make_inputs(config, views))
    assert np.isfinite(metrics["loss"])
    views["video"]["global"][0, 0, 0, 0, 0] = np.nan
    after, metrics = step(state, make_inputs(config, views))
    assert np.isnan(metrics["loss"])
    assert int(after.step) == 2
    jax.tree.map(
        lambda a, b: None if is_count(a) else np.testing.assert_array_equal(a, b), state, after
    )


def test_teachers_start_as_copies_of_the_students(small):
    config = change(small, model={"variant": "mas"})
    state = initial(config, schedules(config, LENGTH))
    blocks = state.teacher["encoders"]["blocks"]
    own = state.student["encoders"]["blocks"][SHARED]
    for modality in ("video", "audio"):
        jax.tree.map(np.testing.assert_array_equal, blocks[modality], own)


def test_bfloat16_stays_near_float32(small, make_views):
    inputs = make_inputs(small, make_views(small))
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = change(learns_and_skips(small), model={"compute_dtype": dtype})
        state, step, _ = start(config)
        state, metrics = step(state, inputs)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state.student)} == {"float32"}
        losses.append(metrics)
    for name, value in losses[0].items():
        if name.startswith("loss/reconstruct"):
            np.testing.assert_allclose(losses[1][name], value, rtol=0.02)
    assert np.isfinite(losses[1]["loss"])


def test_metrics_hold_every_loss_schedules_norms_and_collapse(small, make_views):
    state, step, _ = start(learns_and_skips(small))
    _, metrics = step(state, make_inputs(small, make_views(small)))
    for weight in dataclasses.asdict(small.loss.weights):
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


def test_streams_are_apart_and_change_with_the_step():
    keys = {
        tuple(np.asarray(jax.random.key_data(stream_key(seed, stream, step))))
        for seed in (0, 1)
        for stream in Stream
        for step in (0, 1)
    }
    assert len(keys) == 2 * len(Stream) * 2


def batch_shapes(config):
    """A batch of the pipeline, as shapes."""
    side = config.data.short_side
    frames = np.zeros((config.video.frames, side, side * 4 // 3, 3), np.uint8)
    log_mel = np.zeros((config.audio.mels, config.audio.columns), np.uint16)
    row = views.train_views(config, frames, log_mel, lambda stream: random.Random(0))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((config.batch_size, *np.shape(leaf)), leaf.dtype),
        jax.tree.map(np.asarray, row),
    )


@pytest.mark.parametrize("name", ["k400", "k400:mas", "k400:mats", "audioset:alignment", "demo"])
def test_every_experiment_traces_a_step_at_its_true_size(name):
    module, _, variant = name.partition(":")
    raw = importlib.import_module(f"configs.{module}").get_config(*filter(None, [variant]))
    config = resolve(raw)
    plan = schedules(config, Length(100, 10))
    state = abstract_state(config, optimizer_of(config, plan))
    after, metrics = jax.eval_shape(
        functools.partial(train_step, config=config, schedules=plan), state, batch_shapes(config)
    )
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert metrics["loss"].dtype == np.float32
