"""The guest's console: written into a log of limited size, and shown to whoever is attached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leviathan.launch.host import Sink

__all__ = ["ConsoleHub"]

LOG_LIMIT = 8 << 20
"""Bytes; then the log becomes ``console.log.1`` and a new one begins."""
REPLAY = 2048
"""Bytes of the past that somebody who attaches gets to see, cut at a line's start."""


class ConsoleHub:
    """A sink for the console's output."""

    def __init__(self, log: Path, limit: int = LOG_LIMIT) -> None:
        self._path = log
        self._limit = limit
        self._lock = threading.Lock()
        self._log = log.open("ab", buffering=0)
        self._size = self._log.tell()
        self._recent = b""
        self._watchers: list[Sink] = []
        self.write: Callable[[bytes], None] = lambda data: None
        """Sends keys to the guest; set once there is a console."""

    def __call__(self, data: bytes) -> None:
        """Takes a piece of output."""
        with self._lock:
            if self._log.closed:
                return
            if self._size >= self._limit:
                self._log.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._log = self._path.open("ab", buffering=0)
                self._size = 0
            self._log.write(data)
            self._size += len(data)
            self._recent = (self._recent + data)[-REPLAY:]
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher(data)

    @contextmanager
    def watched_by(self, sink: Sink) -> Iterator[None]:
        """Passes the output on while the block runs; first the last lines."""
        with self._lock:
            sink(self._recent if len(self._recent) < REPLAY else self._recent.partition(b"\n")[2])
            self._watchers.append(sink)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(sink)

    def close(self) -> None:
        """Ends the log; what comes late is dropped."""
        with self._lock:
            self._log.close()
