"""Why a VM ended: whom to name, and the lines of logs that explain it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from leviathan.errors import LeviathanError, NodeLost
from leviathan.vm.mailbox import Event, Mailbox
from leviathan.vm.workers import Worker, worker_named

__all__ = ["explained", "how_it_ended", "node_lost"]

LAST_WORDS_SECONDS = 2.0
ErrorT = TypeVar("ErrorT", bound=LeviathanError)


def node_lost(event: Event, workers: Sequence[Worker], mailbox: Mailbox, note: Callable[[Event], None]) -> NodeLost:
    """The error for the head's event ``node-lost``.

    A node that has left by itself says why, and gets a moment to do so; events that come meanwhile go to ``note``. A
    silent one has nothing to say, and 4 of the 5 s in which its loss is to be told are over.
    """
    name = event.text("name") or "a node"
    error = NodeLost(f"{name} was lost: {event.text('reason') or 'no reason given'}")
    worker = worker_named(workers, name)
    if worker is None:
        return error
    end = time.monotonic() + (0.0 if event.data.get("silent") else LAST_WORDS_SECONDS)
    while not (worker.last_words or worker.gone) and time.monotonic() < end:
        later = mailbox.take(end)
        if later is not None:
            note(later)
            if later.source == name and later.kind in ("lost", "error"):
                worker.last_words = later.text("message")
    if worker.last_words:
        error.message += f" ({name} said: {worker.last_words})"
    return error


def how_it_ended(code: int) -> str:
    """A program's exit code in words; negative: the signal that killed it."""
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def explained(error: ErrorT, logs: Mapping[str, Sequence[str]]) -> ErrorT:
    """The error with the last lines of logs, by their titles, in its message."""
    for title, lines in logs.items():
        if lines:
            error.message += f"\n{title}:\n" + "\n".join(f"  | {line}" for line in lines)
    return error
