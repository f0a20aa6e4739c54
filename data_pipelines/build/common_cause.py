"""Noticing that files fail one after the other for a reason that is none of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipelines.build.ingest import FileResult
from data_pipelines.errors import UnreachableError, UserError

# Files in a row that fail in the same way, before the build is stopped. Files come in an order that
# mixes them, so a fault that some of them have does not come so often in a row.
_SAME_FAILURE = 16
# The same for files that time out alone: each takes twice the time-out.
_TIMED_OUT = 3
# Reasons that are exceptions of the program, or ends of its process, and not findings on a file.
OF_PROGRAM = ("failed", "crashed")
TIMED_OUT = "timed out"


def checked(results: Iterable[FileResult]) -> Iterator[FileResult]:
    """Yields the results of files, in order, unless many in a row are bad for one reason.

    Raises:
      UserError: the same exception for each of 16 files: of the program or its environment.
      UnreachableError: three files in a row timed out: the machine or its storage hangs.
    """
    last, count = ("", ""), 0
    for result in results:
        cause = _cause(result)
        count = count + 1 if cause == last else 1
        last = cause
        if result.reason == TIMED_OUT and count == _TIMED_OUT:
            raise UnreachableError(
                f"{count} files in a row timed out, each of them also when tried alone"
                f" ({result.detail}): check this machine and the storage, or give a larger"
                " --timeout; the same command resumes."
            )
        if result.reason in OF_PROGRAM and count == _SAME_FAILURE:
            raise UserError(
                f"{count} files in a row {result.reason} in the same way ({result.detail}): this is"
                " a fault of the installation or the machine and not of the files: mend it and give"
                " the same command again."
            )
        yield result


def _cause(result: FileResult) -> tuple[str, str]:
    return result.reason, result.detail if result.reason in OF_PROGRAM else ""
