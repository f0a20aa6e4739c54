"""Faults of a run's store, by a proxy before it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from benchmarks.emulators.fault_proxy import Choose
from benchmarks.soak.process_faults import kill
from benchmarks.soak.program import End
from benchmarks.soak.situation import Situation
from data_pipelines.errors import EXIT_BAD_INPUT, EXIT_FAILURE

# Duration of a fault as a fraction of the run's steps: 25 of 2,000, in which a checkpoint is saved.
_PART = 1 / 80
LOST = 50.0  # seconds without a connection; a run waits for a minute
_EVERY = 4  # one of this number of requests has the fault
_OUT_OF_REACH = (
    End(EXIT_FAILURE, "can't be reached"), End(EXIT_FAILURE, "run the same command again"),
)  # fmt: skip
_DENIED = tuple(
    End(status, "check the credentials and the permissions")
    for status in (EXIT_FAILURE, EXIT_BAD_INPUT)
)


def often(fault: str) -> Callable[[Situation], bool]:
    """Returns the fault of each fourth request."""

    def disturb(at: Situation) -> bool:
        numbers = itertools.count(1)
        return _disturb(at, lambda method, path: "" if next(numbers) % _EVERY else fault)

    return disturb


def answer_slowly(at: Situation) -> bool:
    """Every answer is late."""
    return _disturb(at, lambda method, path: "slow")


def deny_removals(at: Situation) -> bool:
    """Nothing can be removed, so that old checkpoints stay."""
    return _disturb(
        at, lambda m, path: "denied" if m == "DELETE" or path.endswith("?delete") else ""
    )


def stall(at: Situation) -> bool:
    """An answer to a read stops in its middle, and the connection stays open."""
    return _disturb(at, _stall_once(""))


def stall_arrays(at: Situation) -> bool:
    """`stall` for the arrays that a restart reads."""
    kill(at)
    at.store.choose = _stall_once("/d/")
    at.continue_with(at.start())
    at.wait_for_steps(1)
    at.store.choose = _none
    return True


def lose_connection(at: Situation) -> bool:
    """Every connection is lost, for almost a minute."""
    at.program.expect(*_OUT_OF_REACH)
    at.store.choose = lambda method, path: "lost before"
    at.program.ended(LOST)
    at.store.choose = _none
    return True


def expire_credentials(at: Situation) -> bool:
    """The store refuses the credentials, until the run has ended."""
    at.program.expect(*_DENIED)
    fault = "expired" if str(at.workdir).startswith("s3") else "denied"
    at.store.choose = lambda method, path: fault
    at.wait_for_end()
    at.store.choose = _none
    return True


def _none(method: str, path: str) -> str:
    return ""


def _disturb(at: Situation, choose: Choose) -> bool:
    """Chooses faults of requests for some steps."""
    at.store.choose = choose
    at.wait_for_steps(math.ceil(_PART * at.steps))
    at.store.choose = _none
    return True


def _stall_once(part: str) -> Choose:
    """Stalls the answer to one request that reads an object with `part` in its name."""
    left = ["stall"]
    return lambda method, path: (
        left.pop()
        if left and method == "GET" and part in path.replace("%2F", "/") and _is_content(path)
        else ""
    )


def _is_content(path: str) -> bool:
    """Whether a request to read has the answer of an object's content, not of a list."""
    return "list-type" not in path and "prefix=" not in path
