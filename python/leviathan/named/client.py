"""A named VM as its user has it: ask, stop, look, type, run."""

from __future__ import annotations

import base64
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leviathan.errors import GuestDied, LeviathanError, TimeOver, UsageError
from leviathan.named.store import CONSOLE_LOG, LEV_LOG, RECORD, Entry, Store
from leviathan.named.wire import Line, Lost, connect, raise_error

__all__ = ["Client", "Finished", "Screenshot"]

STOP_SECONDS = 60.0
"""For the guest to power off; then QEMU quits."""
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended in the guest."""

    command: str
    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Screenshot:
    """The guest's screen."""

    width: int
    height: int
    colours: int
    """Different colours; 1: blank."""
    png: bytes


class Client:
    """One VM by name. Raises ``UsageError`` when it is used and there is no such VM."""

    def __init__(self, name: str, store: Store | None = None) -> None:
        self.name = name
        self.store = store or Store()

    @property
    def entry(self) -> Entry:
        """What is known of it."""
        return self.store.entry(self.name)

    @property
    def console_log(self) -> Path:
        """What its console printed."""
        return self.store.folder(self.name) / CONSOLE_LOG

    @property
    def lev_log(self) -> Path:
        """What its supervisor and QEMU said."""
        return self.store.folder(self.name) / LEV_LOG

    @property
    def record(self) -> Path:
        """What happened, once it has ended."""
        return self.store.folder(self.name) / RECORD

    def status(self) -> dict[str, Any]:
        """The entry and what its supervisor adds while it runs."""
        entry = self.entry
        if not entry.alive or entry.state == "starting":
            return entry.as_json()
        return dict(self._ask({"do": "status"})["status"])

    def stop(self, *, now: bool = False, timeout: float = STOP_SECONDS) -> Entry:
        """Powers the guest off (``now``: QEMU quits at once) and waits for the end. Raises ``TimeOver``."""
        entry = self._running()
        if entry.state == "starting":
            return self.end()
        with suppress(Lost):
            self._ask({"do": "stop", "now": now})
        if not self._gone(timeout):
            raise TimeOver(f"{self.name} did not end within {timeout:g} s", hint=f"lev stop --now {self.name}")
        return self.entry

    def end(self) -> Entry:
        """Has the supervisor clean up and go, whatever it is doing."""
        entry = self.entry
        if entry.alive and entry.supervisor is not None:
            with suppress(ProcessLookupError):
                os.kill(entry.supervisor, signal.SIGTERM)
        self._gone(STOP_SECONDS)
        return self.entry

    def run(self, command: str, *, timeout: float | None = None) -> Finished:
        """Runs a shell command as root in the guest and returns what came of it. Raises ``TimeOver``, ``GuestDied``."""
        out: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        code = self.stream(command, lambda name, data: out[name].append(data), timeout=timeout)
        stdout, stderr = (b"".join(out[name]).decode(errors="replace") for name in ("stdout", "stderr"))
        return Finished(command, code, stdout, stderr)

    def stream(
        self,
        command: str,
        output: Callable[[str, bytes], None],
        *,
        timeout: float | None = None,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """The same, with the output passed on as it comes: ``output("stdout" or "stderr", data)``.

        ``waiting`` is called if another command runs, whose end has to come first.
        """
        line = self._connect()
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            line.close()

        timer = threading.Timer(timeout, give_up) if timeout is not None else None
        try:
            if timer is not None:
                timer.daemon = True
                timer.start()
            line.send({"do": "exec", "command": command})
            while True:
                answer = raise_error(line.receive())
                if "waiting" in answer:
                    waiting()
                for name in ("stdout", "stderr"):
                    if name in answer:
                        output(name, base64.b64decode(answer[name]))
                if "exit_code" in answer:
                    return int(answer["exit_code"])
        except Lost as error:
            if timed_out.is_set():
                raise TimeOver(f"`{command}` did not end within {timeout:g} s in {self.name}") from None
            raise GuestDied(f"{self.name} ended while `{command}` ran", hint=f"lev logs {self.name}") from error
        finally:
            if timer is not None:
                timer.cancel()
            line.close()

    def qmp(self, command: str, *, then: dict[str, Any] | None = None, **arguments: Any) -> Any:
        """Runs a command of QEMU's monitor; ``then`` is the event to wait for: ``{"event", "match", "timeout"}``.

        Underscores in argument names become dashes, as QEMU spells them; where it does not, give a table ``arguments``.
        """
        given = arguments.pop("arguments", None) or {name.replace("_", "-"): v for name, v in arguments.items()}
        return self._ask({"do": "qmp", "execute": command, "arguments": given, "then": then})["return"]

    def screenshot(self, device: str | None = None) -> Screenshot:
        """The guest's screen. Raises a ``LeviathanError`` if it has none."""
        answer = self._ask({"do": "screenshot", "device": device})
        return Screenshot(answer["width"], answer["height"], answer["colours"], base64.b64decode(answer["png"]))

    def trace(self, path: Path, seconds: float) -> None:
        """Records what happens to the guest's memory for so long into a file. Raises a ``LeviathanError``."""
        self._ask({"do": "trace", "path": str(path.resolve()), "seconds": seconds})

    def console(self) -> Line:
        """A connection whose bytes are the console's, both ways."""
        line = self._connect()
        line.send({"do": "console"})
        raise_error(line.receive())
        return line

    def _running(self) -> Entry:
        entry = self.entry
        if not entry.alive:
            how = f": {entry.error}" if entry.error else ""
            raise UsageError(f"{self.name} does not run ({entry.state}{how})", hint="lev list --all")
        return entry

    def _connect(self) -> Line:
        if self._running().state == "starting":
            raise LeviathanError(f"{self.name} is still starting", hint=f"lev logs -f --of lev {self.name}")
        return connect(self.store.folder(self.name))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        line = self._connect()
        try:
            line.send(request)
            return raise_error(line.receive())
        finally:
            line.close()

    def _gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.store.locked(self.name):
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_SECONDS)
        return True
