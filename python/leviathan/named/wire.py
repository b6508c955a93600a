"""The control socket's language: JSON objects, one a line, both ways; a console becomes raw bytes after its first line.

A request is ``{"do": WHAT, …}``. Answers: ``{"ok": true, …}`` or ``{"error": {"message", "hint", "exit_code"}}``.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from leviathan.errors import LeviathanError

__all__ = ["CONTROL", "Line", "Lost", "RemoteError", "connect", "error_line", "listen", "raise_error"]

CONTROL = "control"
LINE_LIMIT = 64 << 20
"""A screen of 8K, encoded, fits."""


class RemoteError(LeviathanError):
    """An error that the VM's supervisor reports."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 125) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Lost(LeviathanError):
    """The other end of the control socket is gone, or talks nonsense."""


class Line:
    """One connection. Not for two readers, nor for two writers, at a time."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self._rest = b""

    def send(self, message: dict[str, Any]) -> None:
        """Sends one object. Raises ``Lost``."""
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Lost(f"the control socket: {error.strerror or error}") from error

    def receive(self) -> dict[str, Any] | None:
        """The next object; ``None`` at the end. Raises ``Lost``."""
        pieces = [self._rest]
        total = len(self._rest)
        while b"\n" not in pieces[-1]:
            data = self.read()
            if not data:
                if total:
                    raise Lost("the control socket ended in the middle of a line")
                return None
            pieces.append(data)
            total += len(data)
            if total > LINE_LIMIT:
                raise Lost(f"a line of more than {LINE_LIMIT >> 20} MiB on the control socket")
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise Lost(f"no JSON on the control socket: {error}") from error
        if not isinstance(message, dict):
            raise Lost("no object on the control socket")
        return message

    def read(self) -> bytes:
        """The next bytes as they are; empty at the end. Raises ``Lost``."""
        try:
            return self.socket.recv(65536)
        except OSError as error:
            raise Lost(f"the control socket: {error.strerror or error}") from error

    def take_rest(self) -> bytes:
        """What was received beyond the last line."""
        rest, self._rest = self._rest, b""
        return rest

    def close(self) -> None:
        """Ends it; a reader in another thread wakes up."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short path of the socket in a folder: an address holds 107 bytes, a path may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{CONTROL}"
    finally:
        os.close(descriptor)


def listen(folder: Path) -> socket.socket:
    """The supervisor's end."""
    (folder / CONTROL).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with _short(folder) as path:
        server.bind(path)
    (folder / CONTROL).chmod(0o600)
    server.listen(16)
    return server


def connect(folder: Path) -> Line:
    """A user's end. Raises ``Lost``."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _short(folder) as path:
            peer.connect(path)
    except OSError as error:
        peer.close()
        raise Lost(f"cannot reach the supervisor of {folder.name}: {error.strerror}") from error
    return Line(peer)


def error_line(error: LeviathanError) -> dict[str, Any]:
    """An error as an answer."""
    return {"error": {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}}


def raise_error(answer: dict[str, Any] | None) -> dict[str, Any]:
    """The answer, if it is no error. Raises ``RemoteError``, and ``Lost`` at the end."""
    if answer is None:
        raise Lost("the VM ended meanwhile")
    error = answer.get("error")
    if isinstance(error, dict):
        raise RemoteError(
            str(error.get("message")), hint=error.get("hint"), exit_code=int(error.get("exit_code") or 125)
        )
    return answer
