"""Orbax's limits of time, by a clock that is never set.

Orbax gives up a save that takes longer than 20 minutes by the time of day, and so one during which
the system's clock is set forward by as much.
"""

from __future__ import annotations

import time
import types
from typing import Any

from orbax.checkpoint._src.futures import future, signaling_client


def use_monotonic_clock() -> None:
    """Replaces the clock of the modules of Orbax that wait for saves."""
    for module in (future, signaling_client):
        changed: Any = module
        changed.time = types.SimpleNamespace(time=time.monotonic)
