"""Noticing that a program ended, wherever it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from leviathan.errors import LaunchError
from leviathan.launch.host import Process

__all__ = ["watch_exit"]

DRAIN_SECONDS = 5.0


def watch_exit(process: Process, ended: Callable[[int | None], None], streams: Sequence[Process] = ()) -> None:
    """Calls ``ended`` with the exit code, or with ``None`` if the host is gone, from a thread of its own.

    ``streams`` are relays of the program's output: they get a moment to deliver what it wrote before it ended.
    """

    def watch() -> None:
        try:
            code = process.wait()
            for stream in streams:
                stream.wait(DRAIN_SECONDS)
        except LaunchError:
            code = None
        ended(code)

    threading.Thread(target=watch, name="lev-exit", daemon=True).start()
