"""Commands and a shell beside each other in one guest.

The guest's init runs ``LOOP`` as its command: it keeps a root shell on the console and takes orders from the port
``org.leviathan.control``: ``TOKEN BASE64`` runs a command, ``kill TOKEN`` ends it, ``quit`` powers off. Output comes
by the ports ``stdout`` and ``stderr`` as it is; behind it, in both, a line ``TOKEN EXITCODE``. The token is new and
random: no output can be taken for it. Commands run one at a time, so that their output does not mix.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
from collections.abc import Callable

from leviathan.errors import GuestDied, LeviathanError
from leviathan.vm.commands import FIND_PORT

__all__ = ["LOOP", "CommandPort", "Streamer"]

Output = Callable[[str, bytes], None]
"""Takes a piece of output: ``stdout`` or ``stderr``, and the bytes."""

TURN_SECONDS = 0.5
CANCELLED = 143
"""As of a command that SIGTERM ended."""

LOOP = (
    FIND_PORT
    + r"""

read -r active < /sys/class/tty/console/active
tty=/dev/${active##* }
while :; do
    (cd /root && exec setsid -c sh -l) < "$tty" > "$tty" 2>&1
    usleep 200000
done &

run() {
    cd /root
    setsid sh "/run/lev-$1" < /dev/null &
    echo $! > "/run/lev-$1.pid"
    wait $!
    code=$?
    rm -f "/run/lev-$1" "/run/lev-$1.pid"
    printf '\n%s %s\n' "$1" $code
    printf '\n%s %s\n' "$1" $code >&2
}

# It may not have begun yet, nor have its process group.
end() {
    while [ -e "/run/lev-$1" ]; do
        read -r pid < "/run/lev-$1.pid" && kill -TERM -$pid && break
        usleep 20000
    done
    sleep 2
    [ ! -e "/run/lev-$1" ] || kill -KILL -$pid
} 2> /dev/null

exec 4< "$port"
while read -r token text <&4; do
    case $token in
        quit) exit 0 ;;
        kill) end "$text" 4<&- & ;;
        *)
            printf %s "$text" | base64 -d > "/run/lev-$token"
            run "$token" 4<&- &
            ;;
    esac
done
"""
)


class Streamer:
    """A sink for one output port: passes on what belongs to the command at hand, as it comes, up to its end mark."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token = b""
        self._mark: re.Pattern[bytes] | None = None
        self._rest = b""
        self._forward: Callable[[bytes], None] = lambda data: None
        self._done: Callable[[int], None] = lambda code: None

    def expect(self, token: str, forward: Callable[[bytes], None], done: Callable[[int], None]) -> None:
        """From now on output goes to ``forward``; ``done(code)`` is called once."""
        with self._lock:
            self._token = b"\n" + token.encode() + b" "
            self._mark = re.compile(re.escape(self._token) + rb"(\d{1,3})\n")
            self._rest = b""
            self._forward, self._done = forward, done

    def forget(self) -> None:
        """Nobody wants output any more."""
        with self._lock:
            self._mark = None

    def __call__(self, data: bytes) -> None:
        """Takes a piece of the port's output."""
        with self._lock:
            if self._mark is None:
                return
            data = self._rest + data
            match = self._mark.search(data)
            if match is None:
                keep = self._held_back(data)
                data, self._rest = data[: len(data) - keep], data[len(data) - keep :]
            else:
                data, self._mark = data[: match.start()], None
            forward, done = self._forward, self._done
        if data:
            forward(data)
        if match is not None:
            done(int(match[1]))

    def _held_back(self, data: bytes) -> int:
        """How many bytes at the end could be the beginning of the mark."""
        start = data.rfind(b"\n")
        if start < 0:
            return 0
        end = data[start:]
        length = len(self._token)
        partial = self._token.startswith(end) or (end.startswith(self._token) and len(end) < length + 4)
        return len(end) if partial else 0


class CommandPort:
    """Runs commands in a guest whose init runs ``LOOP``."""

    def __init__(self) -> None:
        self.stdout = Streamer()
        """The sink of the guest's port of this name, as ``stderr``."""
        self.stderr = Streamer()
        self._write: Callable[[bytes], None] | None = None
        self._turn = threading.Lock()
        self._state = threading.Condition()
        self._current = ""
        self._codes: list[int] = []
        self._error: LeviathanError | None = None

    def open(self, write: Callable[[bytes], None]) -> None:
        """The control port is there, and the guest's init is up."""
        self._write = write

    def run(
        self,
        command: str,
        output: Output,
        cancelled: threading.Event,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """Runs a shell command as root; returns its exit code. Raises ``GuestDied``.

        If another one runs, ``waiting`` is called and this one waits for its turn. Once ``cancelled`` is set (call
        ``nudge`` to have that noticed) the command is ended in the guest: its code is then 143 or 137.
        """
        if not self._turn.acquire(timeout=TURN_SECONDS):
            waiting()
            while not self._turn.acquire(timeout=TURN_SECONDS):
                if cancelled.is_set():
                    return CANCELLED
        try:
            if cancelled.is_set():
                return CANCELLED
            if self._write is None:
                raise GuestDied("the guest takes no commands", hint="its init is not ours, or it is not up yet")
            token = secrets.token_hex(16)
            with self._state:
                if self._error is not None:
                    raise self._error
                self._current, self._codes = token, []
            self.stdout.expect(token, lambda data: output("stdout", data), self._done)
            self.stderr.expect(token, lambda data: output("stderr", data), self._done)
            self._write(f"{token} {base64.b64encode(command.encode()).decode()}\n".encode())
            try:
                return self._wait(token, cancelled)
            finally:
                self.stdout.forget()
                self.stderr.forget()
        finally:
            self._turn.release()

    def _wait(self, token: str, cancelled: threading.Event) -> int:
        killed = False
        with self._state:
            # Both streams must be through.
            while len(self._codes) < 2:
                if self._error is not None:
                    raise self._error
                if cancelled.is_set() and not killed:
                    killed = True
                    assert self._write is not None
                    self._write(f"kill {token}\n".encode())
                self._state.wait()
            return self._codes[0]

    def nudge(self) -> None:
        """Makes a command that waits look at ``cancelled`` again."""
        with self._state:
            self._state.notify_all()

    def fail(self, error: LeviathanError, *, for_good: bool = True) -> None:
        """The guest ended, or rebooted: whoever waits for a command learns that."""
        with self._state:
            self._error = error
            self._state.notify_all()
        if not for_good:
            # Whoever waited has the lock of the turn; once that is free nobody is left to be told.
            with self._turn, self._state:
                self._error = None

    def quit(self) -> None:
        """Asks the guest to power off."""
        if self._write is not None:
            self._write(b"quit\n")

    def _done(self, code: int) -> None:
        with self._state:
            self._codes.append(code)
            self._state.notify_all()
