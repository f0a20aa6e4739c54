"""Recovery from steps whose loss or another metric is not finite."""

from __future__ import annotations

from collections.abc import Callable

import jax

from data_pipelines.errors import TrainingDivergedError
from xkd_jax.config.pretraining import NonfiniteConfig
from xkd_jax.method.train_state import TrainState, advance
from xkd_jax.parallel.processes import print_on_main
from xkd_jax.training.checkpoints.checkpoint import Checkpoints


class Recovery:
    """Counts steps with metrics that are not finite, and stops, skips or rolls back."""

    def __init__(
        self,
        config: NonfiniteConfig,
        checkpoints: Checkpoints,
        first_state: Callable[[], TrainState],
    ):
        """Starts with a count of 0.

        Args:
          config: action and limit.
          checkpoints: the run's checkpoints.
          first_state: returns the state that the run would start from now.
        """
        self._config, self._checkpoints, self._first_state = config, checkpoints, first_state
        self._count = 0

    def recover(self, state: TrainState, step: int, bad: dict[int, str]) -> TrainState:
        """Returns the state to continue with.

        Args:
          state: the state after `step`; deleted by a rollback.
          step: number of steps made.
          bad: {step: names of metrics that were not finite} since the last call.

        Raises:
          TrainingDivergedError: the action is `stop`, or the limit is exceeded.
        """
        if not bad:
            return state
        first, action = min(bad), self._config.action
        tolerated = self._count
        self._count += len(bad) if action == "skip" else 1
        if action == "stop" or self._count > self._config.limit:
            self._checkpoints.wait()
            raise TrainingDivergedError(first, bad[first], self._checkpoints.latest(), tolerated)
        tally = f"{self._count} of at most {self._config.limit}"
        if action == "skip":
            steps = ", ".join(str(n) for n in sorted(bad))
            print_on_main(f"skipped   step {steps}: {bad[first]} is not finite ({tally})")
            return state
        print_on_main(f"roll back step {first}: {bad[first]} is not finite ({tally})")
        self._checkpoints.wait()
        jax.tree.map(lambda leaf: leaf.delete(), state)  # two states may be too much for a device
        return advance(self._first_state(), step)
