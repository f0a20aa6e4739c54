"""Checkpoints of `tiny_state`, saved and restored."""

import tiny_state

from xkd_jax.training.checkpoints.checkpoint import Checkpoints

RECORDS, DATA = 24, "0123456789abcdef0123456789abcdef"  # of the data set


def saved(config, directory, *steps):
    """Saves states whose values follow from their steps."""
    with Checkpoints(directory, config, RECORDS, DATA) as checkpoints:
        for step in steps:
            checkpoints.save(step, tiny_state.fill(step))
    return directory


def restored(config, directory, records=RECORDS, data=DATA):
    """The newest intact state, or None."""
    with Checkpoints(directory, config, records, data) as checkpoints:
        return checkpoints.restore(tiny_state.like(tiny_state.fill(0)))
