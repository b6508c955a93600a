"""Sinks for a program's output: cut into lines, or only the end kept."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from leviathan.launch.host import Sink

__all__ = ["Lines", "Tail"]

TAIL_LINES = 20
TAIL_BYTES = 8192
LINE_LIMIT = 1 << 20


class Lines:
    """A sink that cuts a byte stream into lines; over-long ones are cut off."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Takes a piece of the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for raw in lines:
            self._line(raw.decode(errors="replace").rstrip("\r"))
        if len(self._rest) > LINE_LIMIT:
            self._line(self._rest[:LINE_LIMIT].decode(errors="replace"))
            self._rest = b""


class Tail:
    """The end of a stream, kept for error messages."""

    def __init__(self, forward: Sink | None = None) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._lock = threading.Lock()
        self._forward = forward
        self.total = 0
        """Bytes seen so far."""

    def __call__(self, data: bytes) -> None:
        """Takes a piece of the stream and passes it on."""
        with self._lock:
            self._pieces.append(data)
            self._size += len(data)
            self.total += len(data)
            while self._size - len(self._pieces[0]) > TAIL_BYTES:
                self._size -= len(self._pieces.popleft())
        if self._forward is not None:
            self._forward(data)

    def lines(self, count: int = TAIL_LINES) -> list[str]:
        """The last lines, without empty ones and terminal control characters."""
        with self._lock:
            text = b"".join(self._pieces).decode(errors="replace")
        clean = "".join(c for c in text if c.isprintable() or c == "\n")
        return [line for line in clean.split("\n") if line.strip()][-count:]
