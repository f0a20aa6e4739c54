"""Orbax's timeouts by the monotonic clock.

Orbax aborts a save that takes longer than 20 minutes by the system clock, and so also a save during
which that clock is set forward.
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
