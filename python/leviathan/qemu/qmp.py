"""QEMU's monitor protocol over any byte stream.

Our monitors are pipes behind a ``Host`` (a lab machine has no socket that we could reach), so this is the protocol
alone: lines of JSON, a greeting, replies by id, events. Vocabulary stays with the callers.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
from collections.abc import Callable
from typing import Any

from leviathan.errors import LeviathanError
from leviathan.launch.streams import Lines

__all__ = ["QmpError", "QmpSession"]

REPLY_SECONDS = 10.0


class QmpError(LeviathanError):
    """QEMU refused a command or did not answer; the message carries QEMU's own words."""


class QmpSession:
    """One monitor. Feed it what QEMU writes (it is a sink); it writes through ``send``."""

    def __init__(self, send: Callable[[bytes], None], on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._send = send
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._lines = Lines(self._line)
        self.greeted = threading.Event()
        """Set once QEMU has greeted and commands are accepted."""

    def __call__(self, data: bytes) -> None:
        """Takes a piece of QEMU's output."""
        self._lines(data)

    def execute(self, command: str, timeout: float = REPLY_SECONDS, **arguments: Any) -> Any:
        """Runs a command and returns its value. Raises ``QmpError``. Not to be called from ``on_event``."""
        number = next(self._numbers)
        reply: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            self._waiting[number] = reply
        self._write({"execute": command, "id": number} | ({"arguments": arguments} if arguments else {}))
        try:
            answer = reply.get(timeout=timeout)
        except queue.Empty:
            raise QmpError(f"QEMU did not answer {command} within {timeout:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if "error" in answer:
            error = answer["error"]
            raise QmpError(f"QEMU refused {command}: {error.get('desc', error)}")
        return answer.get("return")

    def _write(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message).encode() + b"\n")

    def _line(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        if "QMP" in message:
            self._write({"execute": "qmp_capabilities", "id": 0})
        elif "event" in message:
            self._on_event(str(message["event"]), message.get("data") or {})
        elif message.get("id") == 0:
            self.greeted.set()
        else:
            with self._lock:
                reply = self._waiting.get(message.get("id", -1))
            if reply is not None:
                reply.put(message)
