"""Ends a resumable command on SIGTERM, with status 75, where this loses no work.

The command runs in `on_request`. Then a thread ends it on SIGTERM, also while the main thread
compiles, reads or waits for another process. The files are then those of a killed process, from
which every command of this project resumes. A loop that has work to save defers the end
(`deferred`), and ends the command itself; inside such a loop, `allowed` marks phases in which the
thread may still end the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from data_pipelines import terminal
from data_pipelines.errors import EXIT_RESUMABLE, StoppedError
from data_pipelines.signal_listener import SignalListener

PATIENCE = 10.0  # seconds in which the main thread may leave a phase whose work must be saved
CLEAN_UP = 5.0  # seconds for the actions at the end
Action = Callable[[], object]
_TEXT = "outside the training steps"


class _Phase:
    """How the command ends after a request.

    what: for the message.
    patience: seconds that the main thread has to leave the phase; None: the end is deferred.
    save: called before the end.
    """

    def __init__(self, what: str, patience: float | None, save: Action | None = None):
        self.what, self.patience, self.save = what, patience, save


class _Command:
    """The state of this process' command."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.listening = self.requested = self.ending = False
        self.phases = [_Phase(_TEXT, 0.0)]
        self.clean_ups: list[Action] = []
        self.announce: Action = lambda: None

    def enter(self, phase: _Phase) -> None:
        """Begins a phase; waits if the process ends."""
        with self.changed:
            self.phases.append(phase)
            self._await_end()

    def leave(self, phase: _Phase) -> None:
        """Ends a phase; waits if the process ends."""
        with self.changed:
            self.changed.wait_for(lambda: not self.ending)
            self.phases.remove(phase)
            self._await_end()

    def _await_end(self) -> None:
        self.changed.notify_all()
        if self.requested and self.phases[-1].patience == 0:
            self.changed.wait_for(lambda: False)

    def begin_end(self) -> bool:
        """Whether the caller must call `end`; the caller holds `changed`."""
        first, self.ending = not self.ending, True
        return first

    def end(self, phase: _Phase) -> None:
        """Ends the process."""
        if phase.save is not None:
            with contextlib.suppress(Exception):  # the newest checkpoint remains
                phase.save()
        self.announce()
        cleaning = threading.Thread(target=self._clean_up, daemon=True)
        cleaning.start()
        cleaning.join(CLEAN_UP)
        terminal.print_error(
            f"stopped   {phase.what}, as requested: run the same command again to resume."
        )
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(EXIT_RESUMABLE)

    def _clean_up(self) -> None:
        for action in reversed(self.clean_ups):
            with contextlib.suppress(Exception):  # a killed process has none
                action()

    def follow(self) -> None:
        """Waits for a phase in which the request ends the process."""
        with self.changed:
            while not self._stays(phase := self.phases[-1]):
                pass
            mine = self.begin_end()
        if mine:
            self.end(phase)

    def _stays(self, phase: _Phase) -> bool:
        """Waits for the end of a phase; returns whether its patience ended first."""
        patience = phase.patience
        return not self.changed.wait_for(lambda: self.phases[-1] is not phase, patience)


_command = _Command()


@contextlib.contextmanager
def on_request() -> Iterator[None]:
    """SIGTERM ends the process with status 75, unless a part of the command defers it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def answer(number: int) -> None:
        if number == signal.SIGTERM:
            request()

    listener = SignalListener(answer)
    before = signal.signal(signal.SIGTERM, _noted)
    os.register_at_fork(after_in_child=_reset)
    listener.open()
    _command.listening = True
    try:
        yield
    except BaseException:
        if _command.ending:
            threading.Event().wait()  # the thread ends the process
        raise
    finally:
        _command.listening = False
        listener.close()
        signal.signal(signal.SIGTERM, before)


def _noted(number: int, frame: FrameType | None) -> None:
    """Does nothing: Python notifies a listener only of signals that have a handler."""


def _reset() -> None:
    """A forked process ends at SIGTERM."""
    if signal.getsignal(signal.SIGTERM) is _noted:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def request() -> None:
    """Requests the end of the command, from any thread; without `on_request` nothing happens."""
    with _command.changed:
        if _command.requested or not _command.listening:
            return
        _command.requested = True
    threading.Thread(target=_command.follow, name="resumable-end", daemon=True).start()


def is_requested() -> bool:
    """Whether the end of the command was requested."""
    return _command.requested


def end_now(what: str) -> None:
    """Ends the process with status 75 in any phase, if it runs in `on_request`."""
    with _command.changed:
        if not _command.listening or not _command.begin_end():
            return
        _command.requested = True
    _command.end(_Phase(what, 0.0))


def announced_by(action: Action) -> None:
    """Sets a function to call shortly before the process ends; it may wait, and raises nothing."""
    _command.announce = action


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """The main thread handles requests itself, by `StoppedError`; that ends the command."""
    with _phase(_Phase("", None)):
        yield


@contextlib.contextmanager
def allowed(what: str, save: Action | None = None) -> Iterator[None]:
    """A phase in `deferred` in which a request ends the process.

    Args:
      what: for the message, such as `while compiling the step`.
      save: None: at once. Otherwise the main thread has `PATIENCE` seconds to leave the phase, then
        this is called from another thread, and the process ends.
    """
    with _phase(_Phase(what, 0.0 if save is None else PATIENCE, save)):
        yield


@contextlib.contextmanager
def _phase(phase: _Phase) -> Iterator[None]:
    _command.enter(phase)
    try:
        yield
    except StoppedError:
        if phase.patience is not None:
            _command.leave(phase)
        raise
    except BaseException:
        _command.leave(phase)
        raise
    _command.leave(phase)


@contextlib.contextmanager
def cleaned_up_by(action: Action) -> Iterator[None]:
    """The action is called before a requested end in this context, for at most `CLEAN_UP` s."""
    _command.clean_ups.append(action)
    try:
        yield
    finally:
        _command.clean_ups.remove(action)
