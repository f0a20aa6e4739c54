"""Duration of collectives between hosts, or between TPU slices."""

from __future__ import annotations

from xkd_jax.planning.costs import Collective


def seconds_between(collective: Collective, parts: int, bandwidth: float) -> float:
    """Returns the least duration of one run of a collective, of what passes between its parts.

    What all members of a part need is received once by the part, with the network cards of all of
    them.

    Args:
      collective: of a group whose members are in several parts, the same number in each.
      parts: hosts or slices that the group extends over.
      bandwidth: of one device's network card in one direction, bytes per second.
    """
    members = len(collective.group) / parts
    fraction = (parts - 1) / parts
    if collective.kind == "collective-permute":
        return collective.bytes / bandwidth
    if collective.kind == "all-to-all":
        return collective.bytes * fraction / bandwidth
    passes = 2 if collective.kind == "all-reduce" else 1
    return passes * collective.bytes * fraction / (members * bandwidth)
