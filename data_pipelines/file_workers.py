"""Worker processes for files that may hang or crash a decoder."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any

# Results that may wait for an earlier one, for each worker, and what they may weigh in all: they
# are held in memory.
_AHEAD = 8
_MOST_BYTES = 1 << 30
_ALIVE = "alive"
# Seconds that a new process may take before its first sign of life.
_START_UP = 120.0

# Given an item and a function to call when it gets on, returns a result.
Work = Callable[[Any, Callable[[], None]], Any]
# Given an item, a reason and a detail, returns a result in place of the one that never came.
OnLoss = Callable[[Any, str, str], Any]


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    number: int = -1
    item: Any = None
    deadline: float = 0.0

    @property
    def idle(self) -> bool:
        return self.number < 0


class FileWorkers:
    """Maps items to results in other processes, each with a time-out, in the order of the items.

    A worker that crashes, or shows no sign of life for the time-out, is replaced and its item's
    result is what `on_loss` says; the other items don't notice. Use as a context manager.
    """

    def __init__(
        self,
        work: Work,
        on_loss: OnLoss,
        workers: int,
        timeout: float,
        weigh: Callable[[Any], int],
    ):
        """Makes the processes on first use.

        Args:
          work: runs in a worker; it and the items and results are pickled.
          on_loss: runs here; its reason is `timed out` or `crashed`.
          workers: number of processes.
          timeout: seconds without a sign of life.
          weigh: bytes of a result.
        """
        self._work = work
        self._on_loss = on_loss
        self._count = max(workers, 1)
        self._timeout = timeout
        self._weigh = weigh
        self._workers: list[_Worker] = []

    def __enter__(self) -> FileWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _end(worker)
        self._workers = []

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yields the result of each item, in order."""
        waiting = collections.deque(enumerate(items))
        total = len(waiting)
        done: dict[int, Any] = {}
        for number in range(total):
            while number not in done:
                self._hand_out(waiting, number + self._ahead(done))
                for finished, result in self._collect():
                    done[finished] = result
            self._hand_out(waiting, number + self._ahead(done))
            yield done.pop(number)

    def _ahead(self, done: dict[int, Any]) -> int:
        """How many items may be under way or done from the one on that is due: that one always."""
        heavy = sum(map(self._weigh, done.values())) > _MOST_BYTES
        return 1 if heavy else _AHEAD * self._count

    def _hand_out(self, waiting: collections.deque, limit: int) -> None:
        """Gives items before the limit to idle workers."""
        while waiting and waiting[0][0] < limit:
            worker = next((w for w in self._workers if w.idle), None)
            patience = self._timeout
            if worker is None and len(self._workers) < self._count:
                worker = _start(self._work)
                self._workers.append(worker)
                patience += _START_UP
            if worker is None:
                return
            worker.number, worker.item = waiting.popleft()
            worker.deadline = time.monotonic() + patience
            with contextlib.suppress(ConnectionError):  # it crashed: `_collect` finds out
                worker.pipe.send(worker.item)

    def _collect(self) -> Iterator[tuple[int, Any]]:
        """Waits for a busy worker to finish, crash or run out of time."""
        busy = {w.pipe: w for w in self._workers if not w.idle}
        patience = min(w.deadline for w in busy.values()) - time.monotonic()
        for pipe in connection.wait(list(busy), max(patience, 0.0)):
            worker = busy[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):  # OSError: in the middle of its result
                yield self._lose(worker, "crashed")
                continue
            if message == _ALIVE:
                worker.deadline = time.monotonic() + self._timeout
                continue
            yield worker.number, message
            worker.number, worker.item = -1, None
        for worker in busy.values():
            if not worker.idle and worker in self._workers and time.monotonic() > worker.deadline:
                yield self._lose(worker, "timed out")

    def _lose(self, worker: _Worker, reason: str) -> tuple[int, Any]:
        self._workers.remove(worker)
        _end(worker)
        code = worker.process.exitcode
        detail = (
            f"nothing came of it for {self._timeout:g} s"
            if reason == "timed out"
            else f"it ended the decoder's process (exit code {code})"
        )
        return worker.number, self._on_loss(worker.item, reason, detail)


def _start(work: Work) -> _Worker:
    # Spawned, since a fork would copy whatever threads' locks are held here.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(pipe: connection.Connection, work: Work) -> None:
    try:
        pipe.send(_ALIVE)
        while True:
            pipe.send(work(pipe.recv(), lambda: pipe.send(_ALIVE)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the builder has gone


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
