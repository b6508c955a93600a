"""Serves a VM's control socket: a thread per connection."""

from __future__ import annotations

import base64
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from leviathan.errors import LeviathanError, TimeOver, UsageError
from leviathan.named.backend import Backend
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.guestloop import CommandPort
from leviathan.named.screen import ScreenError, from_ppm, png
from leviathan.named.wire import Line, Lost, error_line, listen
from leviathan.qemu.qmp import QmpError

__all__ = ["Events", "Server"]

QMP_SECONDS = 20.0
SEND_SECONDS = 30.0
"""A user who takes nothing for so long is gone."""


class Events:
    """QEMU's events, for those who wait for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[queue.SimpleQueue[tuple[str, dict[str, Any]]]] = []

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        """Takes an event."""
        with self._lock:
            for each in self._queues:
                each.put((name, data))

    @contextmanager
    def listening(self) -> Iterator[queue.SimpleQueue[tuple[str, dict[str, Any]]]]:
        """A queue of what happens while the block runs."""
        mine: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        with self._lock:
            self._queues.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._queues.remove(mine)


class Server:
    """The control socket of one VM."""

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        console: ConsoleHub,
        port: CommandPort,
        events: Events,
        status: Callable[[], dict[str, Any]],
        stop: Callable[[bool], None],
    ) -> None:
        self._backend = backend
        self._console = console
        self._port = port
        self._events = events
        self._status = status
        self._stop = stop
        self._lines: set[Line] = set()
        self._lock = threading.Lock()
        self._server = listen(folder)
        threading.Thread(target=self._accept, name="lev-control", daemon=True).start()

    def close(self) -> None:
        """Ends every connection."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_SECONDS), 0))
            threading.Thread(target=self._serve, args=(Line(peer),), name="lev-user", daemon=True).start()

    def _serve(self, line: Line) -> None:
        with self._lock:
            self._lines.add(line)
        try:
            if _uid(line.socket) in (os.getuid(), 0):
                while (request := line.receive()) is not None:
                    self._answer(line, request)
        except Lost:
            pass
        finally:
            with self._lock:
                self._lines.discard(line)
            line.close()

    def _answer(self, line: Line, request: dict[str, Any]) -> None:
        try:
            match request.get("do"):
                case "status":
                    line.send({"ok": True, "status": self._status()})
                case "stop":
                    self._stop(bool(request.get("now")))
                    line.send({"ok": True})
                case "console":
                    self._serve_console(line)
                case "exec":
                    self._serve_exec(line, str(request.get("command", "")))
                case "qmp":
                    line.send({"ok": True, "return": self._qmp(request)})
                case "screenshot":
                    line.send({"ok": True} | self._screenshot(request))
                case "trace":
                    self._backend.trace(Path(str(request.get("path"))), float(request.get("seconds") or 1))
                    line.send({"ok": True})
                case other:
                    raise UsageError(f"the VM's supervisor does not know {other!r}", hint="is it of another version?")
        except Lost:
            raise
        except LeviathanError as error:
            line.send(error_line(error))

    def _serve_console(self, line: Line) -> None:
        line.send({"ok": True})

        def show(data: bytes) -> None:
            # A user who has gone is noticed by the reader below.
            with suppress(OSError):
                line.socket.sendall(data)

        with self._console.watched_by(show):
            keys = line.take_rest() or line.read()
            while keys:
                self._console.write(keys)
                keys = line.read()
        raise Lost("the user left the console")

    def _serve_exec(self, line: Line, command: str) -> None:
        cancelled = threading.Event()

        def listen_to_user() -> None:
            # Whatever he says now, or that he goes, ends the command.
            with suppress(Lost):
                line.read()
            cancelled.set()
            self._port.nudge()

        threading.Thread(target=listen_to_user, name="lev-exec", daemon=True).start()

        def output(stream: str, data: bytes) -> None:
            with suppress(Lost):
                line.send({stream: base64.b64encode(data).decode()})

        def waiting() -> None:
            with suppress(Lost):
                line.send({"waiting": True})

        code = self._port.run(command, output, cancelled, waiting)
        line.send({"ok": True, "exit_code": code})
        raise Lost("one command, one connection")

    def _qmp(self, request: dict[str, Any]) -> Any:
        """A command and, with ``then``, the event that has to follow it: ``{"event", "match", "timeout"}``."""
        then = request.get("then")
        with self._events.listening() as happened:
            answer = self._backend.qmp(
                str(request.get("execute")),
                dict(request.get("arguments") or {}),
                float(request.get("timeout") or QMP_SECONDS),
            )
            if isinstance(then, dict):
                self._await(happened, then)
        return answer

    @staticmethod
    def _await(happened: queue.SimpleQueue[tuple[str, dict[str, Any]]], then: dict[str, Any]) -> None:
        seconds = float(then.get("timeout") or QMP_SECONDS)
        match = dict(then.get("match") or {})
        end = time.monotonic() + seconds
        while True:
            try:
                name, data = happened.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise TimeOver(f"QEMU did not report {then.get('event')} within {seconds:g} s") from None
            if name == then.get("event") and match.items() <= data.items():
                return

    def _screenshot(self, request: dict[str, Any]) -> dict[str, Any]:
        path = self._backend.scratch("screen.ppm")
        arguments = {"filename": path}
        if request.get("device"):
            arguments["device"] = str(request["device"])
        try:
            self._backend.qmp("screendump", arguments, QMP_SECONDS)
        except QmpError as error:
            if "no surface" in error.message or "no console" in error.message.lower():
                raise ScreenError(
                    "the guest has no screen",
                    hint='give it one: `lev run --display card`, or [display] adapter = "std" in its file',
                ) from error
            raise
        picture = from_ppm(self._backend.read_file(path))
        return {
            "width": picture.width,
            "height": picture.height,
            "colours": len({picture.pixels[at : at + 3] for at in range(0, len(picture.pixels), 3)}),
            "png": base64.b64encode(png(picture)).decode(),
        }


def _uid(peer: socket.socket) -> int:
    """Whose process the other end is."""
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
