"""The tables of the claim: rows that can run, cells kept apart, what teachers tell apart."""

import math
import operator

import pytest
import tensorboardX

from benchmarks import claim
from configs import demo
from xkd_jax import config as xkd_config
from xkd_jax.errors import UserError

ROWS = [(table, row) for table, rows in claim.TABLES.items() for row in rows]


@pytest.mark.parametrize("table,row", ROWS)
def test_a_row_can_run_and_changes_what_it_names(table, row):
    variant, settings = claim.TABLES[table][row]
    config = demo.get_config(variant)
    before = xkd_config.resolve(config)
    config.update_from_flattened_dict(settings)
    after = xkd_config.resolve(config)
    for key, value in settings.items():
        get = operator.attrgetter(key)
        assert get(before) != get(after) == value


def test_told_apart_is_the_mean_over_the_last_steps(tmp_path):
    with tensorboardX.SummaryWriter(str(tmp_path / "tensorboard")) as writer:
        for step in range(1, 151):
            writer.add_scalar("collapse/audio_teacher_entropy", step / 100, step)
            writer.add_scalar("collapse/audio_teacher_mean_entropy", step / 50, step)
    (column, nats), *others = claim.told_apart(tmp_path).items()
    assert (column, others) == ("told apart, audio", [])
    assert math.isclose(nats, sum(range(51, 151)) / 100 / 100, rel_tol=1e-6)


def test_cells_of_other_settings_are_not_taken(tmp_path):
    claim.check_same(tmp_path, {"steps": 2400})
    claim.check_same(tmp_path, {"steps": 2400})
    with pytest.raises(UserError, match="another --output"):
        claim.check_same(tmp_path, {"steps": 1200})
