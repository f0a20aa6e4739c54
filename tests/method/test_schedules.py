import dataclasses

import numpy as np
import pytest
from method_inputs import schedules_of

from data_pipelines.errors import UserError
from xkd_jax.config.length import Length
from xkd_jax.config.loss_settings import TemperatureConfig
from xkd_jax.config.pretraining import Config
from xkd_jax.method.schedules import cosine, epoch_warmup


def reference_cosine(start, end, steps, warmup):
    """DINO's schedule: a linspace, then half a cosine."""
    rising = np.linspace(0, start, warmup)
    i = np.arange(steps - warmup)
    falling = end + 0.5 * (start - end) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate([rising, falling])


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_cosine_equals_the_reference(warmup):
    schedule = cosine(3e-4, 1e-6, 40, warmup=warmup)
    expected = reference_cosine(3e-4, 1e-6, 40, warmup)
    found = [float(schedule(i)) for i in range(40)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


def test_teacher_temperature_warms_up_by_epochs():
    schedule = epoch_warmup(TemperatureConfig(0.04, 0.06, 30), steps_per_epoch=10)
    found = [float(schedule(10 * epoch + 3)) for epoch in (0, 1, 29, 30, 700)]
    line = np.linspace(0.04, 0.06, 30)
    np.testing.assert_allclose(found, [line[0], line[1], line[29], 0.06, 0.06], rtol=1e-6)


def test_paper_settings_on_kinetics():
    length = Config().length(219_000)
    assert length.steps_per_epoch == 855
    assert length.steps == 684_375
    plan = schedules_of(Config(), length)
    warmup = 30 * length.steps_per_epoch
    np.testing.assert_allclose(plan.learning_rate(warmup), 1e-4, rtol=1e-6)
    assert float(plan.learning_rate(0)) == 0
    np.testing.assert_allclose(plan.learning_rate(length.steps), 0, atol=1e-12)
    np.testing.assert_allclose(plan.ema(0), 0.997, rtol=1e-6)
    np.testing.assert_allclose(plan.ema(length.steps), 1, rtol=1e-6)
    np.testing.assert_allclose(plan.teacher_temperature["audio"](0), 0.07, rtol=1e-6)


def test_max_steps_is_the_length_of_the_run():
    config = dataclasses.replace(Config(), max_steps=5)
    assert config.length(3) == Length(steps=5, steps_per_epoch=1)


@pytest.mark.parametrize("records,batch,epochs,steps", [(240_000, 256, 800, 749_600), (7, 2, 3, 9)])
def test_drop_last_makes_epochs_of_whole_batches(records, batch, epochs, steps):
    config = dataclasses.replace(Config(), batch_size=batch, epochs=float(epochs))
    kept = config.length(records)
    dropped = dataclasses.replace(config, data=dataclasses.replace(config.data, drop_last=True))
    assert dropped.length(records) == Length(steps, records // batch)
    assert kept == Length(round(epochs * records / batch), records // batch)


def test_drop_last_refuses_fewer_records_than_a_batch():
    config = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, drop_last=True))
    with pytest.raises(UserError, match=r"^data\.drop_last is true, and 255 records"):
        config.length(255)
