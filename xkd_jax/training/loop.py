"""The training loop, of networks and of classifiers: steps, log lines, checkpoints, preemption."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping
from typing import Generic, NoReturn, Protocol, TypeVar

import jax
import numpy as np

from data_pipelines import resumable_end
from data_pipelines.read.read_ahead import Batch
from xkd_jax.parallel.processes import is_main_process, main_activity, print_on_main
from xkd_jax.training.faults.preemption import Preemption
from xkd_jax.training.logs.data_wait import DataWait
from xkd_jax.training.logs.goodput import Goodput
from xkd_jax.training.logs.metric_sinks import Sink
from xkd_jax.training.logs.progress import Progress

# Steps that are dispatched and not finished: one runs while the next one is dispatched.
IN_FLIGHT = 2

State = TypeVar("State")
Step = Callable[[State, Batch], tuple[State, Mapping[str, jax.Array]]]
Saved = TypeVar("Saved", contravariant=True)
Unread = collections.deque[tuple[int, Mapping[str, jax.Array]]]


class Saves(Protocol[Saved]):
    """The methods of `item_checkpoints.ItemCheckpoints` that the loop calls, and `save`."""

    def check(self) -> None: ...

    def save(self, step: int, state: Saved, /) -> None: ...

    def stop(self, step: int) -> NoReturn: ...

    def wait(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Loop(Generic[State]):
    """The settings and functions of one training.

    steps: number of steps of the whole training.
    batch_size: clips in a global batch.
    log_every, save_every: periods in steps; 0: at the last step only. The first step is logged too.
    put: starts the transfer of a host's rows of a batch to its devices; asynchronous.
    compile: (state, batch on devices) -> the step, compiled for such arrays: (state, batch) ->
      (next state, scalars, one of them "loss"); it donates the state.
    recover: (state, its step, {step: scalars that are not finite}) -> the state to continue
      with; called at each log line.
    measure: (state, its step, interrupted) -> more scalars to write; called after each step; may
      return {}. Long work calls `interrupted()` from time to time, equally often on every process,
      and returns early if that is True: the run stops after the next step.
    derive: (means of the scalars over the steps since the last line) -> more scalars to write.
    keep: (step, state) -> None, starts another save, between those of `checkpoints`.
    keep_every: its period in steps; 0: never.
    draw: (state, its step) -> images to write, {tag: uint8 [height, width, 3]}; called after each
      step; may return {}.
    followed: whether the program does more work after the last step, which preemption prevents.
    goodput: accounts for the time of the loop; `derive` is called after those of a line.
    """

    steps: int
    batch_size: int
    log_every: int
    save_every: int
    put: Callable[[Batch], Batch]
    compile: Callable[[State, Batch], Step[State]]
    recover: Callable[[State, int, dict[int, str]], State]
    measure: Callable[[State, int, Callable[[], bool]], Mapping[str, float]]
    followed: bool
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = lambda means: {}
    draw: Callable[[State, int], Mapping[str, np.ndarray]] = lambda state, step: {}
    keep: Callable[[int, State], None] = lambda step, state: None
    keep_every: int = 0
    goodput: Goodput = dataclasses.field(default_factory=Goodput)

    def run(
        self,
        state: State,
        start: int,
        batches: Generator[Batch],
        checkpoints: Saves[State],
        sinks: Sink,
    ) -> State:
        """Runs the remaining steps of the training, with log lines and checkpoints.

        Args:
          state: the state after step `start`; it is donated.
          start: number of steps made before.
          batches: this host's rows of the batches of the remaining steps; closed at the end.
          checkpoints: the checkpoints of this training.
          sinks: where the metrics are written; closed at the end.

        Returns:
          The state after the last step.

        Raises:
          StoppedError: the program was preempted; the state is saved.
        """
        progress = Progress(self.steps, self.batch_size, start, enabled=is_main_process())
        goodput = self.goodput
        unread: Unread = collections.deque()
        advance: Step[State] | None = None
        saved = start
        # A writer left open would start a thread while Python exits, which fails.
        with (
            contextlib.closing(sinks),
            contextlib.closing(batches),
            contextlib.closing(DataWait()) as wait,
            Preemption() as preemption,
            contextlib.ExitStack() as after_compilation,
            goodput.steps(start),
        ):
            with goodput.phase("data_wait"), resumable_end.allowed("before the first step"):
                following = self.put(next(batches)) if start < self.steps else {}
            for step in range(start + 1, self.steps + 1):
                placed = following
                if advance is None:
                    with (
                        goodput.phase("compile"),
                        resumable_end.allowed("while compiling the step"),
                    ):
                        advance = self.compile(state, placed)
                    after_compilation.enter_context(progress.running())
                # The next batch is transferred during this step. After the step's dispatch it would
                # be transferred after the step: on GPUs a transfer waits for all steps dispatched
                # before it, whose memory it may reuse.
                asked = time.perf_counter()
                following = self.put(next(batches)) if step < self.steps else {}
                wait.dispatching(asked, placed)
                state, metrics = advance(state, placed)
                wait.dispatched(metrics["loss"])
                unread.append((step, metrics))
                if len(unread) > IN_FLIGHT:
                    jax.block_until_ready(unread[-1 - IN_FLIGHT][1]["loss"])
                    progress.reached(*unread[-1 - IN_FLIGHT])
                preempted = preemption.reached()
                saving = preempted or is_due(step, self.save_every, self.steps)
                keeping = not saving and is_due(step, self.keep_every, self.steps)
                if (
                    saving
                    or keeping
                    or step == start + 1
                    or is_due(step, self.log_every, self.steps)
                ):
                    averages, bad = read_metrics(unread)
                    waited = wait.take()
                    goodput.line(step, waited)
                    with goodput.phase("other"):
                        state = self.recover(state, step, bad)
                        self._write(step, averages, progress, waited, sinks)
                        checkpoints.check()
                if saving:
                    with goodput.phase("save"):
                        sinks.flush()
                        checkpoints.save(step, state)
                        if preempted and (step < self.steps or self.followed):
                            checkpoints.stop(step)
                if keeping:
                    with goodput.phase("save"):
                        self.keep(step, state)
                saved = step if saving else saved
                with (
                    goodput.phase("probe"),
                    resumable_end.allowed(
                        f"in the probe after step {step}",
                        last_save(checkpoints, step, state, saved),
                    ),
                ):
                    # after the last step nothing is left to save, and results are wanted
                    interrupted = preemption.reached if step < self.steps else _never
                    if measured := self.measure(state, step, interrupted):
                        sinks.write(step, measured)
                    if not interrupted() and (images := self.draw(state, step)):
                        sinks.draw(step, images)
            with goodput.phase("save"), main_activity("saving the last checkpoint"):
                checkpoints.wait()  # before the signal handlers are reset: no signal may abort it
            if self.followed and preemption.reached():
                checkpoints.stop(self.steps)
        return state

    def _write(
        self,
        step: int,
        averages: Mapping[str, float],
        progress: Progress,
        waited: float,
        sinks: Sink,
    ) -> None:
        """Prints the line of a step, and writes its scalars."""
        line, speed = progress.line(step, averages, waited)
        print_on_main(line)
        sinks.write(step, {**averages, **self.derive(averages), **speed})


def _never() -> bool:
    return False


def last_save(checkpoints: Saves[State], step: int, state: State, saved: int) -> Callable[[], None]:
    """Returns a function that saves if the main thread does not return from a probe.

    In a run of several processes the function does nothing, as processes that wait for each other
    in a probe can't save together; their newest checkpoint remains. A probe returns early before
    its next batch, so this function is needed only while a probe compiles or waits for storage.

    Args:
      checkpoints: the checkpoints of the training.
      step: number of steps made.
      state: the state after them.
      saved: the last step that is saved, or is being saved.
    """

    def save() -> None:
        if jax.process_count() > 1:
            return
        if saved < step:
            checkpoints.save(step, state)
        checkpoints.wait()

    return save


def is_due(step: int, every: int, last: int) -> bool:
    """Whether `step` is the last one or a multiple of `every` (0: of none)."""
    return step == last or (every > 0 and step % every == 0)


def read_metrics(unread: Unread) -> tuple[dict[str, float], dict[int, str]]:
    """Fetches and removes the metrics in `unread`.

    Returns:
      Their means over the steps where all of them are finite (over all steps, if there is no such
      step), and {step: names of those that are not finite} of the other steps.
    """
    rows = {step: jax.device_get(metrics) for step, metrics in unread}
    unread.clear()
    bad = {
        step: _nonfinite_terms(names)
        for step, metrics in rows.items()
        if (names := [name for name, value in metrics.items() if not np.isfinite(value)])
    }
    good = [metrics for step, metrics in rows.items() if step not in bad] or list(rows.values())
    return {name: float(np.mean([metrics[name] for metrics in good])) for name in good[0]}, bad


def _nonfinite_terms(bad: list[str]) -> str:
    terms = [name for name in bad if name.startswith("loss/")]
    return ", ".join(terms or bad)
