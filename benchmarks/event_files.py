"""Reads the logged scalars of a run."""

from __future__ import annotations

import collections
import os
from pathlib import Path

from tensorboardX.proto import event_pb2

from data_pipelines.format.tfrecord import FRAMING, HEADER


def scalars(workdir: Path) -> dict[int, dict[str, float]]:
    """Returns {step: {name: value}} of a workdir; for a repeated step, the last values."""
    found: dict[int, dict[str, float]] = collections.defaultdict(dict)
    for file in sorted((workdir / "tensorboard").glob("events*"), key=os.path.getmtime):
        content, start = file.read_bytes(), 0
        while start + HEADER.size < len(content):
            length = HEADER.unpack_from(content, start)[0]
            begin, start = start + HEADER.size, start + FRAMING + length
            if start <= len(content):  # the last event of a killed run may be truncated
                event = event_pb2.Event.FromString(content[begin : begin + length])
                for value in event.summary.value:
                    if value.HasField("simple_value"):  # the other ones are texts
                        found[event.step][value.tag] = value.simple_value
    return found
