"""Destinations of the metrics of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath

import numpy as np

from data_pipelines import terminal
from data_pipelines.errors import UserError


class Sink:
    """A place for metrics; methods that a subclass does not define do nothing."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of one step, {tag: value}."""

    def draw(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the images of one step, {tag: uint8 [height, width, 3]}."""

    def flush(self) -> None:
        """Makes what was written durable; called before a checkpoint is saved."""

    def close(self) -> None:
        """Ends the writing."""


class Sinks(Sink):
    """Several sinks as one; an error of one in `close` does not keep the others open."""

    def __init__(self, sinks: Sequence[Sink]):
        """Takes the sinks, which it closes."""
        self._sinks = sinks

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the `scalars` of one `step` to each sink."""
        for sink in self._sinks:
            sink.write(step, scalars)

    def draw(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the `images` of one `step`, uint8 [height, width, 3], to each sink."""
        for sink in self._sinks:
            sink.draw(step, images)

    def flush(self) -> None:
        """Makes durable what each sink has."""
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        """Closes each sink, also after one has raised an error."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


class WriteWarning:
    """Turns the first error of a sink's writes into a warning, and ignores the others."""

    def __init__(self, path: PurePath, what: str):
        """Sets the text.

        Args:
          path: of the file or folder.
          what: is written there, in the plural.
        """
        self._path, self._what, self._warned = path, what, False

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Catches errors of the file system and of storage."""
        try:
            yield
        except (OSError, UserError) as error:
            if not self._warned:
                self._warned = True
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                reason = getattr(cause, "strerror", None) or str(error).rstrip(".")
                terminal.print_error(
                    f"{self._path} can't be written to ({reason}): continuing without"
                    f" {self._what} until it can."
                )
