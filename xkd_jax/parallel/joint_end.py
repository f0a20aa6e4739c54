"""SIGTERM to one process of a run ends all its processes, also outside the training steps.

In a run of several processes, JAX's preemption notifier handles SIGTERM: it writes a key to JAX's
coordination service. After each step, the training loop reads from this service the step at which
all processes save. Outside the loop, `resumable_end` ends the processes, which notify each other by
a second key.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from typing import Any

import jax
from jax._src import distributed

from data_pipelines import resumable_end

NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # JAX's key
ENDED = "xkd_jax/ended"
# Seconds between two reads of a key: before a notice, and after it.
_POLL, _POLL_AFTER = 2.0, 0.2
# Seconds from writing the key to the end of a process; process 0 ends last, as it runs the service.
_DELAY, _DELAY_OF_FIRST = 3.0, 5.0


def follow() -> None:
    """Starts to follow the keys; must be called when the processes are connected."""
    client: Any = distributed.global_state.client
    over = threading.Event()

    def announce() -> None:
        with contextlib.suppress(Exception):  # the service has ended, and so have the others
            client.key_value_set(ENDED, "1", allow_overwrite=True)
        time.sleep(_DELAY if jax.process_index() else _DELAY_OF_FIRST)

    def listen() -> None:
        if _wait(client, NOTICE, over, _POLL):
            resumable_end.request()
            if _wait(client, ENDED, over, _POLL_AFTER):
                resumable_end.end_now("with another process of the run")

    def close() -> None:
        over.set()
        thread.join()

    resumable_end.announced_by(announce)
    thread = threading.Thread(target=listen, name="joint-end", daemon=True)
    thread.start()
    atexit.register(close)  # runs before JAX's own exit handler, which disconnects


def _wait(client: Any, key: str, over: threading.Event, seconds: float) -> bool:
    """Waits for a key; False if there is none when `over` is set, or the service has ended."""
    while not over.wait(seconds):
        try:
            client.key_value_try_get(key)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                return False
        else:
            return True
    return False
