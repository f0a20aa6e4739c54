"""Detects consecutive failures with a common cause, which is not in the files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from data_pipelines.build.ingest import FileResult
from data_pipelines.errors import UnreachableError, UserError

# Consecutive equal failures that stop the build. The order of files is random, so a fault of some
# files rarely occurs so often in a row.
_SAME_FAILURE = 16
# The same for time-outs; each takes twice the limit.
_TIMED_OUT = 3
# Reasons that are exceptions or crashes of the program, not properties of a file.
OF_PROGRAM = ("failed", "crashed")
TIMED_OUT = "timed out"


def checked(results: Iterable[FileResult]) -> Iterator[FileResult]:
    """Yields the results of files, in order; raises after consecutive failures with one cause.

    Raises:
      UserError: 16 files in a row raised the same exception, so the program or its environment is
        at fault.
      UnreachableError: three files in a row timed out, so the machine or its storage hangs.
    """
    last, count = ("", ""), 0
    for result in results:
        cause = _cause(result)
        count = count + 1 if cause == last else 1
        last = cause
        if result.reason == TIMED_OUT and count == _TIMED_OUT:
            raise UnreachableError(
                f"{count} files in a row timed out, each twice, the second time without others"
                f" ({result.detail}): check this machine and the storage, or give a larger"
                " --timeout; the same command resumes."
            )
        if result.reason in OF_PROGRAM and count == _SAME_FAILURE:
            raise UserError(
                f"{count} files in a row {result.reason} in the same way ({result.detail}): the"
                " installation or the machine is at fault, not the files: correct it, and repeat"
                " the command."
            )
        yield result


def _cause(result: FileResult) -> tuple[str, str]:
    return result.reason, result.detail if result.reason in OF_PROGRAM else ""
