"""Duration of collectives between hosts, or between TPU slices."""

from __future__ import annotations

from xkd_jax.planning.costs import Collective


def seconds_between(collective: Collective, parts: int, bandwidth: float) -> float:
    """Returns the least duration of one run of a collective's transfers between its parts.

    Data that all members of a part need is received once, by the network cards of all members.

    Args:
      collective: of a group whose members are in several parts, the same number in each.
      parts: hosts or slices that the group extends over.
      bandwidth: of one device's network card in one direction, bytes per second.
    """
    # in these two, each member receives other data
    differs = collective.kind in ("collective-permute", "all-to-all")
    cards = 1 if differs else len(collective.group) / parts
    return collective.received_by(parts) / (cards * bandwidth)
