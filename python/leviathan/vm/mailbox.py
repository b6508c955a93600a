"""One queue for all that happens to a VM, and waits on it that know what they wait for.

Reader threads post; the thread that drives the VM takes.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from leviathan.launch.host import Sink
from leviathan.launch.streams import Lines

__all__ = ["Event", "Mailbox", "json_events"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: ``source`` is ``head``, ``guest``, a worker's name, or ``exit``."""

    source: str
    kind: str
    data: dict[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A field as text; empty if absent."""
        value = self.data.get(name)
        return "" if value is None else str(value)


class Mailbox:
    """A queue of events with a limit on every wait."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Event] = queue.Queue()

    def post(self, event: Event) -> None:
        """Adds an event; from any thread."""
        self._queue.put(event)

    def take(self, deadline: float) -> Event | None:
        """The next event, or ``None`` when the clock (``time.monotonic``) passes the deadline."""
        try:
            return self._queue.get(timeout=max(deadline - time.monotonic(), 0.001))
        except queue.Empty:
            return None


def json_events(mailbox: Mailbox, source: str, other: Callable[[str], None]) -> Sink:
    """A sink for JSON lines ``{"event": KIND, …}``; lines that are none of these go to ``other``."""

    def line(text: str) -> None:
        try:
            data = json.loads(text)
            kind = data["event"]
        except (ValueError, KeyError, TypeError):
            if text.strip():
                other(text)
            return
        mailbox.post(Event(source, str(kind), data))

    return Lines(line)
