"""What `lev logs`, `lev console` and `lev exec` do with streams."""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Sequence

from leviathan.errors import UsageError
from leviathan.named.client import Client
from leviathan.named.wire import Lost
from leviathan.vm.console import attach, write_out

__all__ = ["attach_console", "print_log", "run_in"]

POLL_SECONDS = 0.2
LEAVE_HINT = "Ctrl-] or Ctrl-A X leaves; the VM goes on"


def print_log(name: str, of: str, *, follow: bool) -> None:
    """Copies a log to standard output; ``follow``: until the VM has ended."""
    if of not in ("console", "lev"):
        raise UsageError(f"--of {of}: there are two logs, console and lev")
    client = Client(name)
    alive = client.entry.alive
    path = client.console_log if of == "console" else client.lev_log
    if not path.exists():
        return
    with path.open("rb") as file:
        while True:
            while data := file.read(65536):
                write_out(data)
            if not (follow and alive):
                return
            time.sleep(POLL_SECONDS)
            # What was written between the last look and the end is still to come.
            alive = client.entry.alive


def attach_console(name: str) -> int:
    """The guest's console in this terminal, until the user leaves or the VM ends."""
    line = Client(name).console()
    if sys.stdin.isatty():
        print(f"the console of {name}; {LEAVE_HINT}", file=sys.stderr)
    over = threading.Event()
    left = threading.Event()

    def show() -> None:
        try:
            data = line.take_rest() or line.read()
            while data:
                write_out(data)
                data = line.read()
        except (Lost, OSError):
            pass
        over.set()

    def leave() -> None:
        left.set()
        over.set()

    def send(keys: bytes) -> None:
        try:
            line.socket.sendall(keys)
        except OSError:
            over.set()

    threading.Thread(target=show, name="lev-console", daemon=True).start()
    with attach(send, leave):
        over.wait()
    line.close()
    if sys.stdin.isatty():
        print(f"\nleft {name}, which goes on" if left.is_set() else f"\n{name} has ended", file=sys.stderr)
    return 0


def shell_line(words: Sequence[str]) -> str:
    """One word is a line for the shell, several are a program and its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)


def run_in(name: str, words: Sequence[str], *, timeout: float | None, as_json: bool) -> int:
    """Runs a command in the guest; returns its exit code."""
    client = Client(name)
    command = shell_line(words)

    def waiting() -> None:
        print(f"another command runs in {name}; this one waits for its end", file=sys.stderr)

    if not as_json:
        return client.stream(command, _pass_on, timeout=timeout, waiting=waiting)
    out: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    code = client.stream(command, lambda stream, data: out[stream].append(data), timeout=timeout, waiting=waiting)
    print(json.dumps({"command": command, "exit_code": code} | {name: _text(b"".join(out[name])) for name in out}))
    return code


def _text(data: bytes) -> str | dict[str, str]:
    """Text as it is; bytes that are no text as ``{"base64": …}``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _pass_on(stream: str, data: bytes) -> None:
    descriptor = (sys.stdout if stream == "stdout" else sys.stderr).fileno()
    while data:
        data = data[os.write(descriptor, data) :]
