"""Running one command after another in a guest.

The guest's init runs a script of ours (``/lev/exec``) that takes commands from the port ``org.leviathan.control``,
lines ``TOKEN BASE64``. A command's output comes by the two output ports as it is; behind it the script writes a line
``TOKEN EXITCODE`` into both, and as the token is new and random no output can be taken for it.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["FIND_PORT", "LOOP", "Collector", "Request", "quit_line"]

FIND_PORT = r"""
try=0
while :; do
    for name in /sys/class/virtio-ports/*/name; do
        read -r found < "$name" && [ "$found" = org.leviathan.control ] || continue
        port=${name%/name} port=/dev/${port##*/}
    done
    [ -z "${port-}" ] || [ ! -c "$port" ] || break
    try=$((try + 1))
    [ $try -lt 1000 ] || { echo "no virtio-serial port org.leviathan.control" >&2; exit 125; }
    usleep 5000
done
"""
"""Shell: waits for the port that commands come through, and sets ``$port`` to its device."""

LOOP = (
    FIND_PORT
    + r"""
exec 4< "$port"
while read -r token text <&4; do
    [ "$token" != quit ] || exit 0
    printf %s "$text" | base64 -d > /run/lev-command
    (exec 4<&-; cd /root && exec sh /run/lev-command) < /dev/null
    code=$?
    printf '\n%s %s\n' "$token" $code
    printf '\n%s %s\n' "$token" $code >&2
done
"""
)


@dataclass(frozen=True, slots=True)
class Request:
    """One command and the token that marks the end of its output."""

    token: str
    line: bytes

    @classmethod
    def new(cls, command: str) -> Request:
        """A request with a token of its own."""
        token = secrets.token_hex(16)
        return cls(token, f"{token} {base64.b64encode(command.encode()).decode()}\n".encode())


def quit_line() -> bytes:
    """Ends the loop; the guest then powers off."""
    return b"quit\n"


class Collector:
    """A sink for one output port: keeps what comes until the end mark of the request at hand."""

    def __init__(self, done: Callable[[str, int], None]) -> None:
        self._done = done
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._mark: re.Pattern[bytes] | None = None
        self._scanned = 0
        self._token = ""

    def expect(self, request: Request) -> None:
        """Forgets everything before and waits for this request's end; ``done(token, code)`` is called once."""
        with self._lock:
            self._buffer.clear()
            self._scanned = 0
            self._token = request.token
            self._mark = re.compile(rb"\n" + request.token.encode() + rb" (\d{1,3})\n")

    def __call__(self, data: bytes) -> None:
        """Takes a piece of the port's output."""
        with self._lock:
            self._buffer += data
            if self._mark is None:
                return
            match = self._mark.search(self._buffer, self._scanned)
            if match is None:
                self._scanned = max(len(self._buffer) - len(self._token) - 8, 0)
                return
            token, code = self._token, int(match[1])
            del self._buffer[match.start() :]
            self._mark = None
        self._done(token, code)

    def output(self) -> bytes:
        """What the command wrote."""
        with self._lock:
            return bytes(self._buffer)
