import dataclasses

import jax
import numpy as np
import pytest

from xkd_jax import checkpoint, sharding
from xkd_jax.checkpoint import Checkpoints
from xkd_jax.config import CheckpointConfig, MeshConfig
from xkd_jax.errors import UserError
from xkd_jax.optimizer import optimizer
from xkd_jax.schedules import Length, schedules

SETTINGS = CheckpointConfig(keep_last=2, keep_every=4)


def describe(config, axes):
    transformation = optimizer(config, schedules(config, Length(10, 5)))
    mesh = sharding.make_mesh(MeshConfig(*axes))
    return checkpoint.like(
        sharding.abstract_state(config, transformation),
        sharding.state_shardings(config, mesh, transformation),
    )


def fill(like, seed):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        value = rng.integers(0, 9, leaf.shape) if leaf.dtype == np.int32 else rng.random(leaf.shape)
        return jax.device_put(value.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, like)


def test_comes_back_bit_for_bit_onto_any_mesh(small, tmp_path):
    state = fill(describe(small, (2, 2, 2)), 0)
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        checkpoints.save(3, state, small)
    for axes in ((2, 2, 2), (8, 1, 1)):
        like = describe(small, axes)
        with Checkpoints(tmp_path, SETTINGS) as checkpoints:
            assert checkpoints.latest() == 3
            found = checkpoints.restore(3, like, small)
        jax.tree.map(np.testing.assert_array_equal, found, state)
        assert jax.tree.structure(found) == jax.tree.structure(state)
        for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            assert leaf.sharding == wanted.sharding


def test_keeps_the_last_and_every_kth(small, tmp_path):
    like = describe(small, (8, 1, 1))
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(step, fill(like, step), small)
    kept = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == [4, 6, 7]


@pytest.mark.parametrize(
    "change,named",
    [
        ({"seed": 7}, "another seed (0, now 7)"),
        ({"batch_size": 16}, "another batch_size (8, now 16)"),
    ],
)
def test_a_run_of_other_data_or_size_is_refused(small, tmp_path, change, named):
    like = describe(small, (8, 1, 1))
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        checkpoints.save(1, fill(like, 0), small)
        with pytest.raises(UserError) as error:
            checkpoints.restore(1, like, dataclasses.replace(small, **change))
    assert named in str(error.value)


def test_what_may_change_under_a_resume_does_not_hinder(small, tmp_path):
    like = describe(small, (8, 1, 1))
    with Checkpoints(tmp_path, SETTINGS) as checkpoints:
        checkpoints.save(1, fill(like, 0), small)
        checkpoints.restore(1, like, dataclasses.replace(small, log_every=7))
