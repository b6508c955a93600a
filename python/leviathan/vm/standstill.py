"""A guest that stands still because no node has room for more of its memory."""

from __future__ import annotations

import time

from leviathan.errors import GuestDied
from leviathan.model.sizes import MIB
from leviathan.vm.mailbox import Event

__all__ = ["Standstill"]

HINT = "give each node more with --node-memory, use more nodes, or give the guest less to do at once"


class Standstill:
    """Which nodes are out of room, and since when there is any."""

    def __init__(self) -> None:
        self._nodes: dict[str, str] = {}
        """Name and what it holds."""
        self._since = 0.0
        """By ``time.monotonic``."""

    def __bool__(self) -> bool:
        return bool(self._nodes)

    def note(self, event: Event) -> str:
        """Takes ``out-of-room`` or ``room-again`` of the head; returns it in words."""
        name = event.text("name")
        if event.kind == "room-again":
            self._nodes.pop(name, None)
            return f"{name} has room again" + ("" if self._nodes else ": the guest goes on")
        if not self._nodes:
            self._since = time.monotonic()
        held, limit = (_mebibytes(event, field) for field in ("resident", "limit"))
        self._nodes[name] = f"{name} holds {held} of {limit} MiB"
        return f"no node has room for more guest memory ({self._nodes[name]}): the guest stands still until there is"

    def over(self, seconds: float) -> GuestDied | None:
        """The end of a guest that has stood still for longer than that; 0: there is none."""
        if not self._nodes or not seconds or time.monotonic() - self._since < seconds:
            return None
        holds = ", ".join(self._nodes.values())
        message = f"no node has room for more guest memory: {holds}; the guest stood still for {seconds:g} s"
        return GuestDied(message, hint=f"{HINT}; to wait longer: --set timeouts.room=SECONDS")


def _mebibytes(event: Event, field: str) -> int:
    value = event.data.get(field)
    return value // MIB if isinstance(value, int) else 0
