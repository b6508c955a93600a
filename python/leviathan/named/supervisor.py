"""The process that a named VM lives under: started by ``start.launch``, ends with the VM.

``python -m leviathan.named.supervisor FOLDER LOCK-FD READY-FD``: it leaves the caller's session, keeps the lock,
reports ``{"ok": true}`` or an error on READY-FD once the VM is up or has failed, and writes progress to ``lev.log``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from leviathan.errors import Interrupted, LeviathanError
from leviathan.model.machine import Machine
from leviathan.named.backend import Backend, make_backend
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.guestloop import CommandPort
from leviathan.named.server import Events, Server
from leviathan.named.store import CONSOLE_LOG, MACHINE, RECORD, Entry, State, Store
from leviathan.named.wire import CONTROL, error_line
from leviathan.vm.progress import Progress
from leviathan.vm.signals import stop_signals

__all__ = ["Supervisor", "main"]


class Supervisor:
    """One VM and its entry."""

    def __init__(self, folder: Path, ready: int) -> None:
        self._folder = folder
        self._ready: int | None = ready
        self._store = Store(folder.parent)
        self._entry: Entry = self._store.entry(folder.name)
        self._lock = threading.Lock()
        self._console = ConsoleHub(folder / CONSOLE_LOG)
        self._port = CommandPort()
        self._events = Events()
        self._progress = Progress(sys.stderr)
        machine = Machine.model_validate_json((folder / MACHINE).read_bytes())
        self._backend: Backend = make_backend(machine, self._console, self._port, self._progress, self._events)

    def run(self) -> None:
        """The whole life. Errors end up in the entry."""
        server = None
        try:
            with stop_signals():
                try:
                    self._note(supervisor=os.getpid())
                    self._backend.start()
                    server = self._serve()
                    self._note(state="running", leftovers=self._backend.leftovers(), **self._shown())
                    self._report({"ok": True})
                    code = self._backend.wait()
                finally:
                    self._backend.close()
            self._end("ended", exit_code=code)
        except Interrupted as error:
            self._fail(error, "ended")
        except LeviathanError as error:
            self._fail(error, "failed")
        except Exception as error:
            self._fail(
                LeviathanError(f"a mistake of ours: {error!r}", hint="`lev logs --of lev` has the rest"), "failed"
            )
            raise
        finally:
            if server is not None:
                server.close()
            (self._folder / CONTROL).unlink(missing_ok=True)
            self._console.close()
            self._write_record()

    def _serve(self) -> Server:
        return Server(self._folder, self._backend, self._console, self._port, self._events, self._status, self._stop)

    def _status(self) -> dict[str, Any]:
        return self._entry.as_json() | self._backend.facts()

    def _stop(self, now: bool) -> None:
        self._note(state="stopping")
        self._backend.stop(now=now)

    def _shown(self) -> dict[str, Any]:
        display = self._backend.facts().get("display")
        return {"display": display} if display else {}

    def _fail(self, error: LeviathanError, state: State) -> None:
        print(f"error: {error.message}", file=sys.stderr, flush=True)
        self._port.fail(error)
        self._end(state, exit_code=error.exit_code, error=error.message, hint=error.hint)
        self._report(error_line(error))

    def _end(self, state: State, **known: Any) -> None:
        self._note(state=state, ended=time.time(), leftovers={}, **known)

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._entry = replace(self._entry, **changes)
            self._store.save(self._entry)

    def _report(self, message: dict[str, Any]) -> None:
        """Tells whoever started us, once; he may have gone."""
        ready, self._ready = self._ready, None
        if ready is not None:
            with suppress(OSError), os.fdopen(ready, "wb") as pipe:
                pipe.write(json.dumps(message).encode() + b"\n")

    def _write_record(self) -> None:
        with suppress(OSError):
            (self._folder / RECORD).write_text(json.dumps(self._backend.record(), indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Becomes the supervisor: a session of its own, no terminal."""
    if len(arguments) != 3:
        sys.exit("usage: python -m leviathan.named.supervisor FOLDER LOCK-FD READY-FD (`lev run -d` starts it)")
    folder, lock, ready = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    os.setsid()
    # The leader of a session could get a terminal again by opening one; its child cannot.
    if os.fork():
        os._exit(0)
    os.umask(0o077)
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for descriptor in (lock, ready):
        os.set_inheritable(descriptor, False)
    Supervisor(folder, ready).run()


if __name__ == "__main__":
    main(sys.argv[1:])
