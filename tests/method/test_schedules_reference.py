"""Schedules, lengths and random streams compared with their definitions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xkd_jax.config.length import Length
from xkd_jax.config.loss_settings import TemperatureConfig
from xkd_jax.config.pretraining import Config, OptimizerConfig
from xkd_jax.method.random_streams import INITIALIZE, mask_stream, stream_key
from xkd_jax.method.schedules import constant, cosine, epoch_warmup, schedules


def values(schedule, steps):
    found = [schedule(step) for step in steps]
    assert all(value.dtype == np.float32 and value.shape == () for value in found)
    return np.asarray(found, np.float64)


def half_cosine(start, end, steps, warmup, step):
    if step < warmup:
        return start * step / max(warmup - 1, 1)
    progress = min((step - warmup) / max(steps - warmup, 1), 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize("warmup", [0, 1, 2, 5, 9, 10, 12])
def test_cosine_with_warmup_equals_definition(warmup):
    schedule = cosine(0.8, 0.3, 10, warmup=warmup)
    expected = [half_cosine(0.8, 0.3, 10, warmup, step) for step in range(15)]
    np.testing.assert_allclose(values(schedule, range(15)), expected, rtol=1e-5, atol=1e-7)


def test_cosine_without_warmup_equals_definition():
    assert values(cosine(0.8, 0.3, 10), [0]) == np.float32(0.8)


def test_constant_schedule_is_constant():
    assert (values(constant(0.3), (0, 7, 10**6)) == np.float32(0.3)).all()


@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_temperature_changes_once_an_epoch(epochs):
    schedule = epoch_warmup(TemperatureConfig(0.04, 0.1, epochs), steps_per_epoch=3)
    expected = [
        0.04 + 0.06 * (min(step // 3 / max(epochs - 1, 1), 1) if step // 3 < epochs else 1)
        for step in range(18)
    ]
    np.testing.assert_allclose(values(schedule, range(18)), expected, rtol=1e-6)


def test_temperature_of_traced_step_equals_temperature_of_int():
    schedule = epoch_warmup(TemperatureConfig(0.04, 0.1, 4), steps_per_epoch=3)
    found = values(schedule, map(jnp.int32, range(12)))
    np.testing.assert_array_equal(found, values(schedule, range(12)))


def config(**optimizer):
    changed = OptimizerConfig(
        learning_rate=0.8, final_learning_rate=0.1, warmup_epochs=1.5, weight_decay=0.25,
        ema_start=0.9, ema_end=0.99,
    )  # fmt: skip
    base = Config(batch_size=4, optimizer=dataclasses.replace(changed, **optimizer))
    loss = dataclasses.replace(
        base.loss,
        video_teacher_temperature=TemperatureConfig(0.1, 0.2, 3),
        audio_teacher_temperature=TemperatureConfig(0.5, 0.3, 2),
    )
    return dataclasses.replace(base, loss=loss)


@pytest.mark.parametrize("epochs,warmup", [(1.5, 6), (100.0, 12)])
def test_schedules_of_a_run_have_its_settings(epochs, warmup):
    run, steps = config(warmup_epochs=epochs), range(13)
    plan = schedules(run.optimizer, run.teacher_temperatures, Length(12, 4))
    rate = [half_cosine(0.8, 0.1, 12, warmup, step) for step in steps]
    ema = [half_cosine(0.9, 0.99, 12, 0, step) for step in steps]
    np.testing.assert_allclose(values(plan.learning_rate, steps), rate, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(values(plan.ema, steps), ema, rtol=1e-6)
    np.testing.assert_allclose(values(plan.weight_decay, steps), 0.25)
    assert plan.teacher_temperature.keys() == {"video", "audio"}
    video, audio = (values(plan.teacher_temperature[m], (0, 4, 8, 12)) for m in ("video", "audio"))
    np.testing.assert_allclose(video, [0.1, 0.15, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(audio, [0.5, 0.3, 0.3, 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    "records,batch,epochs,max_steps,drop_last,expected",
    [
        (10, 4, 3.0, 0, False, Length(8, 2)),
        (10, 4, 3.0, 0, True, Length(6, 2)),
        (10, 4, 3.0, 5, False, Length(5, 2)),
        (3, 4, 1.0, 0, False, Length(1, 1)),
        (9, 4, 0.01, 0, False, Length(1, 2)),
        (40, 4, 2.5, 0, False, Length(25, 10)),
    ],
)
def test_length_of_a_run_in_steps(records, batch, epochs, max_steps, drop_last, expected):
    run = dataclasses.replace(Config(), batch_size=batch, epochs=epochs, max_steps=max_steps)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, drop_last=drop_last))
    found = run.length(records)
    assert found == expected
    assert isinstance(found.steps, int)
    assert isinstance(found.steps_per_epoch, int)


def test_streams_have_constant_numbers_and_keys():
    assert (INITIALIZE, mask_stream("video"), mask_stream("audio")) == (0, 1, 2)
    for seed, step in ((5, 0), (5, 3), (6, 3)):
        expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), 2)
        assert stream_key(seed, mask_stream("audio"), step) == expected
    assert stream_key(5, INITIALIZE) == stream_key(5, INITIALIZE, 0)
