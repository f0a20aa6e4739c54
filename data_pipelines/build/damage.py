"""Exceptions of decoding: files that can't become records, or are damaged from some point on."""

from __future__ import annotations

from typing import Literal

from data_pipelines.errors import UserError

Reason = Literal[
    "missing", "unreadable", "no video", "no audio", "too short", "too large", "damaged",
    "unsupported",
]  # fmt: skip

# Time stamps may go back by at most this many seconds; a clock that restarts is damage.
LONGEST_STEP_BACK = 1.0


class DamageError(Exception):
    """A file is damaged from some point on; the text describes the damage."""


class UnfitError(Exception):
    """An intact file can't become a record; the text is the reason.

    Attributes:
      reason: category of the reason.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason


class MediaError(UserError):
    """A file is left out, with the category of the reason and its details."""

    def __init__(self, path: str, reason: Reason, detail: str):
        super().__init__(f"{path} is left out: {detail}.")
        self.reason = reason
        self.detail = detail
