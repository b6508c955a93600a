"""Noticing that a program ended, wherever it runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from leviathan.errors import LaunchError
from leviathan.launch.host import Process
from leviathan.vm.mailbox import Event, Mailbox

__all__ = ["watch_exit"]

DRAIN_SECONDS = 5.0


def watch_exit(process: Process, name: str, mailbox: Mailbox, streams: Sequence[Process] = ()) -> None:
    """Posts an event ``exit``/``name`` when the program ends: its ``code``, or ``None`` and ``why``: its host is gone.

    ``streams`` are relays of the program's output: they get a moment to deliver what it wrote before it ended.
    """

    def watch() -> None:
        try:
            code = process.wait()
            for stream in streams:
                stream.wait(DRAIN_SECONDS)
            mailbox.post(Event("exit", name, {"code": code}))
        except LaunchError as error:
            mailbox.post(Event("exit", name, {"code": None, "why": error.message}))

    threading.Thread(target=watch, name="lev-exit", daemon=True).start()
