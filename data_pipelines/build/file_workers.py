"""A pool of worker processes for files that may hang or crash a decoder."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any

from data_pipelines.build.work_clock import TICK, WorkClock

# Results that may wait in memory for an earlier one: their number per worker, and their bytes.
_AHEAD = 8
MAX_BYTES = 1 << 28
_ALIVE = "alive"
# Seconds that a new process may take to start.
_START_UP = 120.0
# Seconds to wait for the end of a killed process; blocked storage may delay it forever.
_END = 10.0

# (item, function to call after progress) -> result.
Work = Callable[[Any, Callable[[], None]], Any]
# (item, reason, detail) -> result of a lost item.
OnLoss = Callable[[Any, str, str], Any]


@dataclasses.dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    clock: WorkClock
    number: int = -1
    item: Any = None
    patience: float = 0.0
    alone: bool = False

    @property
    def idle(self) -> bool:
        return self.number < 0


class FileWorkers:
    """Maps items to results in worker processes, in order, with a time-out for each item.

    A worker that crashes, or works without progress for the time-out (`WorkClock`), is replaced. As
    overload, lack of memory or slow storage can cause both, the item is tried a second time while
    nothing else runs; if that fails too, `on_loss` makes its result. Other items are not affected.
    Use as a context manager.
    """

    def __init__(
        self,
        work: Work,
        on_loss: OnLoss,
        workers: int,
        timeout: float,
        weigh: Callable[[Any], int],
    ):
        """Creates the pool; processes start on first use.

        Args:
          work: runs in a worker process; it, the items and the results are pickled.
          on_loss: runs in this process; its reason is `timed out` or `crashed`.
          workers: number of processes.
          timeout: seconds of work without progress.
          weigh: returns the bytes of a result in memory.
        """
        self._work = work
        self._on_loss = on_loss
        self._count = max(workers, 1)
        self._timeout = timeout
        self._weigh = weigh
        self._workers: list[_Worker] = []
        self._again: collections.deque[tuple[int, Any]] = collections.deque()

    def __enter__(self) -> FileWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _end(worker)
        self._workers = []

    def map(self, items: Iterable[Any], tick: Callable[[], None] = lambda: None) -> Iterator[Any]:
        """Yields the result of each item, in order.

        Args:
          items: arguments of `work`.
          tick: called after each result, and every `TICK` seconds while waiting for one.
        """
        waiting = collections.deque(enumerate(items))
        total = len(waiting)
        done: dict[int, Any] = {}
        for number in range(total):
            while number not in done:
                self._hand_out(waiting, number + self._ahead(done))
                for finished, result in self._collect():
                    done[finished] = result
                tick()
            self._hand_out(waiting, number + self._ahead(done))
            yield done.pop(number)

    def _ahead(self, done: dict[int, Any]) -> int:
        """Returns how many items, from the next one to yield on, may be started."""
        heavy = sum(map(self._weigh, done.values())) > MAX_BYTES
        return 1 if heavy else _AHEAD * self._count

    def _hand_out(self, waiting: collections.deque, limit: int) -> None:
        """Sends items below the limit to idle workers, or a single item that is tried again."""
        busy = sum(not worker.idle for worker in self._workers)
        if any(worker.alone for worker in self._workers):
            return
        if self._again:
            if not busy:
                self._give(*self._again.popleft(), alone=True)
            return
        while waiting and waiting[0][0] < limit and busy < self._count:
            self._give(*waiting.popleft(), alone=False)
            busy += 1

    def _give(self, number: int, item: Any, *, alone: bool) -> None:
        """Sends an item to an idle worker, or to a new one."""
        worker = next((w for w in self._workers if w.idle), None)
        patience = self._timeout
        if worker is None:
            worker = _start(self._work)
            self._workers.append(worker)
            patience += _START_UP
        worker.number, worker.item, worker.alone, worker.patience = number, item, alone, patience
        worker.clock.restart()
        with contextlib.suppress(ConnectionError):  # it crashed, which `_collect` detects
            worker.pipe.send(item)

    def _collect(self) -> Iterator[tuple[int, Any]]:
        """Waits up to `TICK` seconds for a worker to finish, crash or time out; yields results."""
        busy = {w.pipe: w for w in self._workers if not w.idle}
        for pipe in connection.wait(list(busy), TICK):
            worker = busy[pipe]  # type: ignore[index]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):  # OSError: while it sent a result
                yield from self._lose(worker, "crashed")
                continue
            if message == _ALIVE:
                worker.clock.restart()
                worker.patience = self._timeout
                continue
            yield worker.number, message
            worker.number, worker.item, worker.alone = -1, None, False
        for worker in busy.values():
            lost = worker not in self._workers
            if not (worker.idle or lost) and worker.clock.look() > worker.patience:
                yield from self._lose(worker, "timed out")

    def _lose(self, worker: _Worker, reason: str) -> Iterator[tuple[int, Any]]:
        """Ends a worker; yields the result of its item after the second try."""
        self._workers.remove(worker)
        _end(worker)
        if not worker.alone:
            self._again.append((worker.number, worker.item))
            return
        code = worker.process.exitcode
        detail = (
            f"no progress for {self._timeout:g} s, twice, the second time without other files"
            if reason == "timed out"
            else f"it crashed the decoder twice (exit code {code})"
        )
        yield worker.number, self._on_loss(worker.item, reason, detail)


def _start(work: Work) -> _Worker:
    # Spawn: a fork would copy locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, pickle.dumps(work)), daemon=True)
    process.start()
    theirs.close()
    assert process.pid is not None
    return _Worker(process, ours, WorkClock(process.pid))


def _serve(pipe: connection.Connection, pickled: bytes) -> None:
    # Every core has a worker, so threads of numerical libraries would only compete. The libraries
    # read these variables when `work` imports them.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    try:
        work: Work = pickle.loads(pickled)
        pipe.send(_ALIVE)
        while True:
            pipe.send(work(pipe.recv(), lambda: pipe.send(_ALIVE)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the main process has ended


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join(_END)
    worker.pipe.close()
