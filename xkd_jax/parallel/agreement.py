"""Exchanges values between the processes of a run, and checks that they are equal."""

from __future__ import annotations

import collections
import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipelines.errors import UserError

_MOST = 8  # largest number of keys, values, processes and hosts in a message
_MOST_TEXT = 80  # largest number of characters of a value in a message


def require(values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same values; every process must call it.

    Digests are compared first: their size is constant, so the collective can't block because of
    different sizes.

    Args:
      values: nested dictionaries of JSON types.

    Raises:
      UserError: values differ; the message is the same on every process.
    """
    if jax.process_count() == 1:
        return
    _require_equal_devices()
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).digest()
    if len({row.tobytes() for row in _gather(digest)}) == 1:
        return
    found = everyone([socket.gethostname(), values])
    raise UserError(describe([host for host, _ in found], [value for _, value in found]))


def hosts() -> list[str]:
    """Returns the host name of each process; every process must call it."""
    return everyone(socket.gethostname())


def everyone(value: Any) -> list[Any]:
    """Returns the value of each process; every process must call it.

    Args:
      value: of JSON types.
    """
    if jax.process_count() == 1:
        return [value]
    mine = json.dumps(value, sort_keys=True).encode()
    longest = int(np.max(multihost_utils.process_allgather(np.array(len(mine)))))
    return [json.loads(row.tobytes()) for row in _gather(mine.ljust(longest))]


def describe(hosts: Sequence[str], values: Sequence[Any]) -> str:
    """Returns the message with the keys that differ, their values and processes.

    Args:
      hosts: host name of each process.
      values: values of each process; at least two differ.
    """
    flat = [dict(_flat("", value)) for value in values]
    texts = {
        key: [found.get(key, "missing") for found in flat]
        for key in sorted({key for found in flat for key in found})
    }
    differing = [
        f"{key} is {_listed(hosts, found)}" for key, found in texts.items() if len(set(found)) > 1
    ]
    more = len(differing) - _MOST
    named = "; ".join(differing[:_MOST]) + (f"; and {more} more" if more > 0 else "")
    return (
        f"The processes of the run differ: {named}: start all of them with the same flags, program,"
        " libraries and data."
    )


def _gather(content: bytes) -> np.ndarray:
    """Returns the bytes of every process, uint8 [processes, bytes]; all have the same length."""
    return np.asarray(multihost_utils.process_allgather(np.frombuffer(content, np.uint8)))


def _require_equal_devices() -> None:
    """Raises a `UserError` in place of JAX's error for different numbers of devices."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    numbers = [counts[process] for process in range(jax.process_count())]
    if len(set(numbers)) > 1:
        held = ", ".join(f"{n} of process {process}" for process, n in enumerate(numbers))
        raise UserError(
            f"The processes of the run have different numbers of devices ({held}): give each the"
            " same number."
        )


def _flat(key: str, value: Any) -> list[tuple[str, str]]:
    """Returns (dotted key, JSON text) of each value."""
    if not isinstance(value, dict):
        return [(key, json.dumps(value, ensure_ascii=False))]
    below = (_flat(f"{key}.{name}" if key else name, value[name]) for name in value)
    return [pair for pairs in below for pair in pairs]


def _listed(hosts: Sequence[str], texts: Sequence[str]) -> str:
    """Returns each distinct text with its processes and hosts."""
    processes: dict[str, list[int]] = {}
    for process, text in enumerate(texts):
        processes.setdefault(text, []).append(process)
    shown = [
        f"{text[:_MOST_TEXT]}{'...' * (len(text) > _MOST_TEXT)} on {_named(hosts, found)}"
        for text, found in list(processes.items())[:_MOST]
    ]
    more = len(processes) - _MOST
    return " and ".join(shown) + (f" and {more} other values" if more > 0 else "")


def _named(hosts: Sequence[str], processes: Sequence[int]) -> str:
    numbers = ", ".join(map(str, processes[:_MOST])) + ", ..." * (len(processes) > _MOST)
    names = list(dict.fromkeys(hosts[process] for process in processes))
    where = ", ".join(names[:_MOST]) + ", ..." * (len(names) > _MOST)
    return f"process{'es' if len(processes) > 1 else ''} {numbers} ({where})"
