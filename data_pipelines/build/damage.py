"""What decoding raises for a file that gives no record, or none from some point on."""

from __future__ import annotations

from typing import Literal

from data_pipelines.errors import UserError

Reason = Literal[
    "missing", "unreadable", "no video", "no audio", "too short", "too large", "damaged",
    "unsupported",
]  # fmt: skip

# Time stamps may go back by so many seconds; a clock that starts again is another matter.
LONGEST_STEP_BACK = 1.0


class DamageError(Exception):
    """A file that can be opened is damaged from some point on; the text says how."""


class UnfitError(Exception):
    """An intact file can't become a record; the text says why.

    Attributes:
      reason: in a word or two.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason = reason


class MediaError(UserError):
    """A file that gives no record, and why."""

    def __init__(self, path: str, reason: Reason, detail: str):
        super().__init__(f"{path} is left out: {detail}.")
        self.reason = reason
        self.detail = detail
