"""The control channel to the agent in a lab machine: frames over a socket, and the programs started through it.

A frame is a header (payload length u32, stream u32, kind u8, three zero bytes; little-endian) and a payload. Credit
keeps a program whose output is not taken from holding up the others (see ``crates/agent/src/frame.rs``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from leviathan.errors import LaunchError
from leviathan.launch.host import Sink

__all__ = ["AgentError", "Channel", "ChannelLost", "LabProcess"]

_log = logging.getLogger(__name__)

HEADER = struct.Struct("<IIB3s")
MAX_PAYLOAD = 1 << 20
WINDOW = 256 << 10
PIECE = 64 << 10
CALL_SECONDS = 30.0

CALL, INPUT, INPUT_END, OUTPUT_CREDIT = 1, 2, 3, 4
REPLY, OUTPUT, ERROR, EXIT, INPUT_CREDIT = 16, 17, 18, 19, 20

Fields = Mapping[str, object]
Reply = dict[str, Any]


class ChannelLost(LaunchError):
    """The machine at the other end is gone; the message says what was seen of it."""


class AgentError(LaunchError):
    """The agent refused a call."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame from the agent."""

    kind: int
    stream: int
    payload: bytes


class Decoder:
    """Cuts received bytes into frames. Raises ``ValueError`` for what is none."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, data: bytes) -> list[Frame]:
        """All frames that are whole now."""
        self._buffer += data
        frames, at = [], 0
        while len(self._buffer) - at >= HEADER.size:
            length, stream, kind, reserved = HEADER.unpack_from(self._buffer, at)
            if length > MAX_PAYLOAD or reserved != b"\0\0\0":
                raise ValueError(f"no frame: length {length}, kind {kind}, reserved {reserved.hex()}")
            end = at + HEADER.size + length
            if end > len(self._buffer):
                break
            frames.append(Frame(kind, stream, bytes(self._buffer[at + HEADER.size : end])))
            at = end
        del self._buffer[:at]
        return frames


class LabProcess:
    """A program in a lab machine; its output goes to the sinks from a thread of its own, in order."""

    def __init__(self, channel: Channel, stream: int, stdout: Sink | None, stderr: Sink | None) -> None:
        self.pid = 0
        self._channel = channel
        self.stream = stream
        self._sinks = {OUTPUT: stdout, ERROR: stderr}
        self._queue: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._code: int | None = None
        self._credit = WINDOW
        self._may_write = threading.Condition()
        if stdout or stderr:
            threading.Thread(target=self._pump, name=f"lev-output-{stream}", daemon=True).start()

    def write(self, data: bytes) -> None:
        """Sends bytes to its standard input, waits while it takes none; a program that has ended takes none."""
        view = memoryview(data)
        while view:
            with self._may_write:
                self._may_write.wait_for(lambda: self._credit > 0 or self._ended.is_set())
                if self._ended.is_set():
                    return
                piece = view[: min(self._credit, PIECE)]
                self._credit -= len(piece)
            self._channel.send(INPUT, self.stream, bytes(piece))
            view = view[len(piece) :]

    def close_stdin(self) -> None:
        """Ends its standard input."""
        if not self._ended.is_set():
            self._channel.send(INPUT_END, self.stream)

    def signal(self, number: int) -> None:
        """Sends a signal to the program and what it started; no error if it has ended."""
        if not self._ended.is_set():
            self._channel.call("signal", target=self.stream, number=int(number))

    def resize(self, rows: int, columns: int) -> None:
        """Tells its terminal the size."""
        if not self._ended.is_set():
            self._channel.call("resize", target=self.stream, size={"rows": rows, "cols": columns})

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code (negative: signal number), or ``None`` when the time is over. All output has been delivered.

        Raises ``ChannelLost`` if the machine ended first.
        """
        if not self._ended.wait(timeout):
            return None
        if self._code is None:
            raise self._channel.lost()
        return self._code

    def deliver(self, kind: int, payload: bytes) -> None:
        """Takes a frame from the reader; never blocks."""
        if kind == INPUT_CREDIT:
            with self._may_write:
                self._credit += int.from_bytes(payload, "little")
                self._may_write.notify_all()
        elif kind == EXIT and not any(self._sinks.values()):
            self._end(int(json.loads(payload)["code"]))
        else:
            self._queue.put((kind, payload))

    def abandon(self) -> None:
        """The channel is lost: nothing more will come."""
        self._queue.put((EXIT, b""))
        self._end(None)

    def _end(self, code: int | None) -> None:
        if not self._ended.is_set():
            self._code = code
            with self._may_write:
                self._ended.set()
                self._may_write.notify_all()

    def _pump(self) -> None:
        taken = 0
        while True:
            kind, payload = self._queue.get()
            if kind == EXIT:
                if payload:
                    self._end(int(json.loads(payload)["code"]))
                return
            sink = self._sinks.get(kind)
            if sink is not None and payload:
                try:
                    sink(payload)
                # Whatever a callback raises, the exit must still be delivered.
                except Exception:  # noqa: BLE001
                    _log.exception("a sink failed; its output is dropped from here on")
                    self._sinks[kind] = None
            taken += len(payload)
            if taken >= WINDOW // 4:
                self._channel.send(OUTPUT_CREDIT, self.stream, taken.to_bytes(4, "little"))
                taken = 0


class Channel:
    """Calls to one agent, from any thread. ``explain`` may say more about why the other end is gone."""

    def __init__(self, sock: socket.socket, name: str, explain: Callable[[str], str] = lambda reason: reason) -> None:
        self.name = name
        self._socket = sock
        self._explain = explain
        self._streams = itertools.count(1)
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        self._replies: dict[int, Future[Reply]] = {}
        self._processes: dict[int, LabProcess] = {}
        self._lost: str | None = None
        threading.Thread(target=self._read, name=f"lev-channel-{name}", daemon=True).start()

    def lost(self) -> ChannelLost:
        """The error to raise now that the machine is gone."""
        return ChannelLost(self._lost or f"{self.name} is gone")

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Sends a frame; a lost machine takes none: the reader notices that, too, and tells everybody."""
        with self._send_lock, contextlib.suppress(OSError):
            self._socket.sendall(HEADER.pack(len(payload), stream, kind, b"\0\0\0") + payload)

    def begin(self, call: str, fields: Fields, process: LabProcess | None = None) -> tuple[int, Future[Reply]]:
        """Sends a call; returns its stream and the reply to come."""
        stream = process.stream if process else self.next_stream()
        reply: Future[Reply] = Future()
        with self._lock:
            if self._lost:
                raise self.lost()
            self._replies[stream] = reply
            if process:
                self._processes[stream] = process
        self.send(CALL, stream, json.dumps({"call": call, **fields}).encode())
        return stream, reply

    def finish(self, what: str, reply: Future[Reply], seconds: float = CALL_SECONDS) -> Reply:
        """Waits for a reply. Raises ``AgentError`` if the agent refused, ``ChannelLost``, or ``LaunchError`` (time)."""
        try:
            answer = reply.result(seconds)
        except TimeoutError:
            raise LaunchError(f"{self.name}: no answer to {what} within {seconds:.0f} s") from None
        if "error" in answer:
            error = answer["error"]
            raise AgentError(f"{self.name}: {what}: {error['text']}", int(error["errno"]))
        return answer

    def call(self, call: str, **fields: object) -> Reply:
        """Sends a call and waits for the reply."""
        return self.finish(call, self.begin(call, fields)[1])

    def next_stream(self) -> int:
        """A number that no call has used."""
        return next(self._streams)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdout: Sink | None,
        stderr: Sink | None,
        stdin: bool,
        pty: tuple[int, int] | None,
    ) -> LabProcess:
        """Starts a program. ``pty``: rows and columns of a terminal; its bytes then go to ``stdout``."""
        process = LabProcess(self, self.next_stream(), stdout, stderr)
        fields = {
            "argv": list(argv),
            "env": dict(env),
            "stdin": stdin,
            "stdout": stdout is not None,
            "stderr": stderr is not None,
            "pty": {"rows": pty[0], "cols": pty[1]} if pty else None,
        }
        _, reply = self.begin("spawn", fields, process)
        try:
            process.pid = int(self.finish(f"start {argv[0]}", reply)["started"]["pid"])
        except LaunchError:
            self._forget(process)
            raise
        return process

    def put(self, path: str, data: bytes, mode: int, seconds: float) -> None:
        """Writes a file."""
        stream, reply = self.begin("put", {"path": path, "mode": mode, "size": len(data)})
        for at in range(0, len(data), PIECE):
            self.send(INPUT, stream, data[at : at + PIECE])
        self.finish(f"put {path}", reply, seconds)

    def get(self, path: str, seconds: float) -> bytes:
        """Reads a file."""
        pieces: list[bytes] = []
        process = LabProcess(self, self.next_stream(), pieces.append, None)
        _, reply = self.begin("get", {"path": path}, process)
        try:
            self.finish(f"get {path}", reply)
            code = process.wait(seconds)
        except LaunchError:
            self._forget(process)
            raise
        if code is None:
            self._forget(process)
            raise LaunchError(f"{self.name}: {path} did not arrive within {seconds:.0f} s")
        return b"".join(pieces)

    def close(self, reason: str) -> None:
        """Ends the channel; whoever waits learns the reason. The first reason stays."""
        with self._lock:
            if self._lost:
                return
            self._lost = reason
            replies, self._replies = self._replies, {}
            processes, self._processes = self._processes, {}
        for process in processes.values():
            process.abandon()
        for reply in replies.values():
            reply.set_exception(self.lost())
        # Without the shutdown a reader that waits in recv would not notice.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _forget(self, process: LabProcess) -> None:
        with self._lock:
            self._processes.pop(process.stream, None)
        process.abandon()

    def _read(self) -> None:
        decoder = Decoder()
        reason = f"{self.name} closed its control channel"
        try:
            while data := self._socket.recv(1 << 16):
                for frame in decoder.push(data):
                    self._dispatch(frame)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{self.name}: its control channel broke: {error}"
        self.close(self._explain(reason))

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind == REPLY:
            with self._lock:
                reply = self._replies.pop(frame.stream, None)
            if reply is not None:
                reply.set_result(json.loads(frame.payload))
            return
        with self._lock:
            # After the exit nothing comes; the agent drops what leftovers of the program write.
            take = self._processes.pop if frame.kind == EXIT else self._processes.get
            process = take(frame.stream, None)
        if process is not None:
            process.deliver(frame.kind, frame.payload)
