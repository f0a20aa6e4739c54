"""The end of a command that writes a folder and that the same command resumes."""

from __future__ import annotations

from collections.abc import Callable

from data_pipelines import resumable_end, terminal
from data_pipelines.errors import EXIT_INTERRUPTED, UserError, file_error


def exit_status(command: Callable[[], int], output: str) -> int:
    """Runs a command and returns its exit status; an error is printed as one sentence.

    SIGTERM ends the process with status 75.

    Args:
      command: returns the status of a command that ends.
      output: path or URL of the folder, which the message names if the error names no file.
    """
    try:
        with resumable_end.on_request():
            return command()
    except UserError as error:
        terminal.print_error(f"error: {error}")
        return error.status
    except OSError as error:
        fault = file_error(
            error,
            f"{error.filename or output} can't be read or written ({error.strerror or error}):"
            " free disk space there (for a URL, in TMPDIR too) or correct its permissions; the same"
            " command resumes.",
            writing=True,
        )
        terminal.print_error(f"error: {fault}")
        return fault.status
    except KeyboardInterrupt:
        terminal.print_error("stopped   by Ctrl-C: the same command resumes")
        return EXIT_INTERRUPTED
