"""The compiler's message that a program does not fit into memory."""

from __future__ import annotations

import re

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def missing_memory(message: str) -> float | None:
    """Returns the bytes of temporaries that did not fit; None if the message is another one."""
    found = re.search(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds", message)
    return float(found[1]) * _UNITS[found[2]] if found else None
