"""The training program, with faults of its data, devices and clock that signals begin.

    python -m benchmarks.soak.faulty_run FLAGS    # those of main.py

`BATCH` makes a number of the next batch NaN. `BIT` flips a bit in one device's copy of the weights
before the next step. `CLOCK` moves the time of day, forward and back again by the next one.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import Any

BATCH, BIT, CLOCK = (signal.SIGRTMIN + n for n in (1, 2, 3))
JUMP = 1e6  # seconds, 11 days
_FLIPPED = 20  # a bit that changes a float32 by an eighth of its value, at most


@dataclasses.dataclass
class Asked:
    """Requested faults that have not happened yet."""

    batch: bool = False
    bit: bool = False
    jump: float = 0.0

    def ask_batch(self, *_: object) -> None:
        """Requests a number that is not finite in the next batch."""
        self.batch = True

    def ask_bit(self, *_: object) -> None:
        """Requests a flipped bit before the next step."""
        self.bit = True

    def move_clock(self, *_: object) -> None:
        """Moves the time of day."""
        self.jump = JUMP - self.jump


def inject(asked: Asked) -> None:
    """Replaces the functions of the program in which faults happen."""
    import jax

    from benchmarks.soak.flipped_bits import flipped
    from xkd_jax.parallel import mesh
    from xkd_jax.training import train

    put, compile_step, now = mesh.put_batch, train.compile_step, time.time

    def put_batch(batch: Any, *rest: Any) -> Any:
        if asked.batch:
            asked.batch = False
            batch["audio"]["global"]["gain"][:] = float("nan")
        return put(batch, *rest)

    def compiled(*args: Any, **advice: Any) -> Any:
        step = compile_step(*args, **advice)

        def advance(state: Any, batch: Any) -> Any:
            if asked.bit:
                asked.bit = False
                leaves, tree = jax.tree.flatten(state.student)
                leaves[0] = flipped(leaves[0], jax.local_device_count() - 1, _FLIPPED)
                state = dataclasses.replace(state, student=jax.tree.unflatten(tree, leaves))
            return step(state, batch)

        return advance

    changed: Any = mesh
    changed.put_batch = put_batch
    changed = train
    changed.compile_step = compiled
    changed = time
    changed.time = lambda: now() + asked.jump


def main() -> None:
    """Runs the program."""
    asked = Asked()
    for number, ask in ((BATCH, asked.ask_batch), (BIT, asked.ask_bit), (CLOCK, asked.move_clock)):
        signal.signal(number, ask)
    from xkd_jax.__main__ import main as program

    inject(asked)
    program()


if __name__ == "__main__":  # not in worker processes, which import this file
    main()
