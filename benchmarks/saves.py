"""Measures the cost of saves in a training on this machine: blocks of steps with and without one.

    python -m benchmarks.saves [--clips=4] [--steps=10] [--rounds=3] [--folder=FOLDER]

The step and the state are those of the k400 config, with clips on one device, without augmentation.
In turn, a block of steps is run without saves, with one save to a run's folder in its first step
(`checkpoint`), and with one to the host's disk (`local_checkpoints`), both below FOLDER. A save
overlaps with the steps; a block ends when its save has ended. Prints the bytes, the seconds that
the training waits for the save, the bytes per second of a save alone, the seconds by which a save
makes the block longer, also relative to the steps between two saves at the configs' intervals, and
the shortest interval with at most 2 %. Run it on an idle machine.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks.accelerator import step_times
from data_pipelines import terminal
from data_pipelines.command_parser import command_parser
from data_pipelines.terminal import count
from xkd_jax.config.pretraining import CheckpointConfig, LocalCheckpointsConfig
from xkd_jax.method.train_state import TrainState
from xkd_jax.training.checkpoints.array_digest import digests
from xkd_jax.training.checkpoints.checkpoint import Checkpoints
from xkd_jax.training.local.local_checkpoints import LocalCheckpoints

MOST = 0.02  # share of the time of steps


@dataclasses.dataclass(frozen=True)
class Tier:
    """One kind of saves.

    name: for the output.
    save: (step, state) -> None, starts a save.
    wait: returns when it is on disk.
    every: the config's number of steps between two saves.
    """

    name: str
    save: Callable[[int, TrainState], None]
    wait: Callable[[], None]
    every: int


@dataclasses.dataclass
class Training:
    """A compiled step, its batch and the state, which advances."""

    advance: Callable[[TrainState, Any], tuple[TrainState, Any]]
    batch: Any
    state: TrainState
    step: int = 0

    def block(self, steps: int, tier: Tier | None) -> tuple[float, float]:
        """Runs steps, and a save in the first one.

        Args:
          steps: number of steps.
          tier: of the save; None: without one.

        Returns:
          Seconds of the block, and those that the save stopped it.
        """
        began, blocked = time.perf_counter(), 0.0
        for number in range(steps):
            self.state, metrics = self.advance(self.state, self.batch)
            jax.block_until_ready(metrics)
            self.step += 1
            if number == 0 and tier is not None:
                since = time.perf_counter()
                tier.save(self.step, self.state)
                blocked = time.perf_counter() - since
        if tier is not None:
            tier.wait()
        return time.perf_counter() - began, blocked

    def save_alone(self, tier: Tier) -> float:
        """Returns the seconds of a save without steps."""
        self.step += 1
        since = time.perf_counter()
        tier.save(self.step, self.state)
        tier.wait()
        return time.perf_counter() - since


def shortest_period(extra: float, step: float) -> int:
    """Returns the smallest number of steps between saves whose cost is at most `MOST`.

    Args:
      extra: seconds by which a save makes the training longer.
      step: seconds of a step.
    """
    return max(1, math.ceil(extra / (MOST * step)))


def described(
    tier: Tier, nbytes: int, alone: float, blocked: float, extra: float, step: float
) -> str:
    """Returns the line of a tier.

    Args:
      tier: the kind of saves.
      nbytes: of the state.
      alone: seconds of a save without steps.
      blocked: seconds that a save stops the training.
      extra: seconds by which a save makes the training longer.
      step: seconds of a step.
    """
    return (
        f"{tier.name:6}  {nbytes / 2**30:.2f} GiB; training waits {blocked:.2f} s; a save alone"
        f" {nbytes / alone / 2**20:.0f} MiB/s; a save adds {extra:+.2f} s ({extra / step:+.1%} of a"
        f" step), {extra / step / tier.every:+.3%} at every {tier.every} steps, at most {MOST:.0%}"
        f" from every {shortest_period(extra, step)} steps on"
    )


def measure(training: Training, tiers: list[Tier], steps: int, rounds: int) -> None:
    """Runs the blocks in turn, and prints the result."""
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(training.state))
    training.block(1, None)
    alone = {}
    for tier in tiers:  # the first save compiles digests and creates folders
        training.save_alone(tier)
        alone[tier.name] = training.save_alone(tier)
    since = time.perf_counter()
    digests({"state": training.state})
    digesting = time.perf_counter() - since
    plain: list[float] = []
    extra: dict[str, list[float]] = {tier.name: [] for tier in tiers}
    blocked: dict[str, list[float]] = {tier.name: [] for tier in tiers}
    for number in range(1, rounds + 1):
        whole, _ = training.block(steps, None)
        plain.append(whole / steps)
        text = f"round {number}  none {whole / steps:.3f} s a step"
        for tier in tiers:
            taken, stopped = training.block(steps, tier)
            extra[tier.name].append(taken - whole)
            blocked[tier.name].append(stopped)
            text += f", {tier.name} {taken / steps:.3f}"
        terminal.print_text(text)
    step, median = statistics.median(plain), statistics.median
    terminal.print_text(
        f"medians of {count(rounds, 'round')} of {count(steps, 'step')} of {step:.3f} s; digests of"
        f" a save to the run's folder take {digesting:.2f} s"
    )
    for tier in tiers:
        name = tier.name
        terminal.print_result(
            described(tier, nbytes, alone[name], median(blocked[name]), median(extra[name]), step)
        )


def main() -> None:
    """Compiles the step and runs the blocks."""
    parser = command_parser("benchmarks.saves", __doc__)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where to save; default: a temporary folder")
    parser.add_argument("--rehearse", action="store_true", help="a tiny model")
    args = parser.parse_args()
    variant = step_times.Variant.parse(f"{args.clips}:auto:local:views")
    compiled = step_times.compile_variant(variant, args.rehearse)
    inputs, state = step_times.random_inputs(compiled), compiled.run.initialize()
    config, periods = compiled.config, (CheckpointConfig(), LocalCheckpointsConfig())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        local_config = LocalCheckpointsConfig(dir=f"{folder}/local", keep=1)
        config = dataclasses.replace(
            config, checkpoint=CheckpointConfig(keep_last=1), local_checkpoints=local_config
        )
        workdir = Path(folder, "run")
        local = LocalCheckpoints(local_config, workdir)
        with Checkpoints(workdir / "checkpoints", config, 1, "synthetic") as checkpoints:
            checkpoints.keep_local(local)
            tiers = [
                Tier("folder", checkpoints.save, checkpoints.wait, periods[0].every_steps),
                Tier("local", checkpoints.save_locally, local.finish, periods[1].every_steps),
            ]
            measure(Training(compiled.step, inputs, state), tiers, args.steps, args.rounds)


if __name__ == "__main__":
    main()
