"""Reads a run's TensorBoard files."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from data_pipelines.errors import UserError, file_error
from data_pipelines.format import storage
from data_pipelines.format.tfrecord import FRAMING, HEADER


def scalars(workdir: PurePath) -> dict[int, dict[str, float]]:
    """Returns {step: {name: value}} of a workdir; for a repeated step, the last values.

    Raises:
      UserError: a file can't be read or is damaged.
    """
    found: dict[int, dict[str, float]] = collections.defaultdict(dict)
    for step, value in values(workdir):
        if value.HasField("simple_value"):  # the other ones are texts and images
            found[step][value.tag] = value.simple_value
    return found


def values(workdir: PurePath) -> Iterator[tuple[int, Any]]:
    """Yields the step and the protocol buffer `Summary.Value` of each value of a workdir, in order.

    Raises:
      UserError: a file can't be read or is damaged.
    """
    for file in _files(workdir / "tensorboard"):
        try:
            content = storage.read(str(file))
        except OSError as error:
            raise file_error(
                error, f"{file} can't be read ({error.strerror}): make it readable, or remove it."
            ) from None
        yield from _values_in(content, file)


def _files(folder: PurePath) -> list[PurePath]:
    """Returns the files of events, in the order in which they were begun."""
    if isinstance(folder, Path):
        return sorted(folder.glob("events*"), key=os.path.getmtime)
    if not storage.is_folder(str(folder)):
        return []
    return [folder / n for n in sorted(storage.sizes(str(folder))) if n.startswith("events")]


def _values_in(content: bytes, file: PurePath) -> Iterator[tuple[int, Any]]:
    from google.protobuf.message import DecodeError
    from tensorboardX.proto import event_pb2  # imported here because that takes long

    start = 0
    while start + HEADER.size < len(content):
        length = HEADER.unpack_from(content, start)[0]
        begin, start = start + HEADER.size, start + FRAMING + length
        if start > len(content):  # the last event of a killed run may be truncated
            return
        try:
            event = event_pb2.Event.FromString(content[begin : begin + length])
        except DecodeError:
            raise UserError(f"{file} is damaged: restore a copy of it, or remove it.") from None
        for value in event.summary.value:
            yield event.step, value
