"""JSON lines between two terminals over a socket of one user's."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from typing import Any

from leviathan.errors import StartError

__all__ = ["Line"]

LIMIT = 1 << 16
"""Longest line, bytes."""


class Line:
    """One end of a connection. Sending is safe from any thread, receiving belongs to one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self._lock = threading.Lock()

    def check_peer(self) -> None:
        """The other end is a program of the same user's. Raises ``StartError``."""
        data = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", data)
        if uid != os.getuid():
            raise StartError(f"user {uid} connected to a terminal of user {os.getuid()}")

    def send(self, **message: Any) -> bool:
        """Sends a message; false if the other end is gone or does not read."""
        data = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:
            return False
        return True

    def receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """The next message; ``None`` at the end, and for what is no message. Raises ``TimeoutError``."""
        self._socket.settimeout(timeout)
        while b"\n" not in self._rest:
            if len(self._rest) > LIMIT:
                return None
            try:
                piece = self._socket.recv(4096)
            except TimeoutError:
                raise
            except OSError:
                return None
            if not piece:
                return None
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Ends the connection; a ``receive`` in another thread returns."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
