"""Taking part in a region."""

from __future__ import annotations

from pathlib import Path

from leviathan._native import Region, Seat
from leviathan.dsm.description import Description
from leviathan.errors import UsageError

__all__ = ["join"]


def join(
    description: Description | str | Path,
    node: int,
    *,
    seat: Seat | None = None,
    timeout: float = 60.0,
) -> Region:
    """Joins as ``node`` and returns when all nodes have. Nodes may start in any order, within ``timeout`` seconds.

    ``description``: the same for all, or the file that holds it. ``seat``: where this process listens already;
    without one it listens at its address of the description. Use the region as a context manager: leaving the block
    waits until all nodes leave theirs.

    Raises ``ConfigError`` for a bad file, ``UsageError`` for a node that is not in it, ``StartError`` if userfaultfd is
    not allowed, a channel cannot be made or UCX is not in this build, ``TimeOver`` naming the nodes that did not come,
    ``NodeLost``.
    """
    if not isinstance(description, Description):
        description = Description.load(description)
    if not 0 <= node < len(description.nodes):
        raise UsageError(f"node {node} is not in the description, which has nodes 0 to {len(description.nodes) - 1}")
    seat = seat or Seat(description.nodes[node].address)
    return seat.join(description.text(), node, timeout)
