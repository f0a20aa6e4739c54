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
    # what passes in these two is another for each member
    differs = collective.kind in ("collective-permute", "all-to-all")
    cards = 1 if differs else len(collective.group) / parts
    return collective.received_by(parts) / (cards * bandwidth)
