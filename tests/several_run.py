"""A config file for `test_processes`."""

import ml_collections
import small_run


def get_config() -> ml_collections.ConfigDict:
    """`small_run` with less to compile, and checkpoints only at the end and on preemption."""
    config = small_run.get_config()
    small_run.compile_quickly(config)
    config.checkpoint.every_steps = 0
    config.checkpoint.keep_last = 0
    return config
