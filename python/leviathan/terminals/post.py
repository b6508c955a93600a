"""The head's side of the meeting: takes in the other nodes' terminals and tells them what happens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from leviathan.errors import LeviathanError, StartError, UsageError
from leviathan.terminals.hello import Hello
from leviathan.terminals.line import Line
from leviathan.terminals.runtime import Lock, meeting_folder

__all__ = ["SOCKET", "Post"]

SOCKET = "head.sock"
HELLO_SECONDS = 10.0
TICK_SECONDS = 0.5


@dataclass(slots=True)
class _Attached:
    hello: Hello
    line: Line


class Post:
    """A context manager. ``say`` is called, from threads, with remarks for the head's own terminal."""

    def __init__(self, mine: Hello, say: Callable[[str], None]) -> None:
        self._mine = mine
        self._say = say
        self._attached: dict[int, _Attached] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._told: list[str] = []
        self.on_lost: Callable[[int, str], None] | None = None
        """Called, from a thread, with a node's number and the reason when its terminal goes, once the VM runs."""

    def __enter__(self) -> Self:
        folder = meeting_folder(self._mine.part.cpus, self._mine.part.addresses)
        self._lock = Lock(folder / "node-0.lock")
        if not self._lock.held:
            raise StartError(
                f"node 0 of this VM already runs (process {self._lock.holder or 'unknown'})",
                hint="each node has a start= of its own; a second VM needs another number of CPUs or other addresses",
            )
        self._path = folder / SOCKET
        # We hold the lock, so this is of a head that was killed.
        self._path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        try:
            self._server.bind(str(self._path))
            self._path.chmod(0o600)
            self._server.listen()
        except OSError as error:
            self.__exit__(None, None, None)
            raise StartError(f"cannot wait for other terminals at {self._path}: {error.strerror}") from error
        threading.Thread(target=self._accept, name="lev-post", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._path.unlink(missing_ok=True)
        with self._changed:
            for attached in self._attached.values():
                attached.line.close()
            self._attached.clear()
        self._lock.close()

    def missing(self) -> list[int]:
        """Nodes without a terminal."""
        with self._changed:
            return [node for node in range(1, self._mine.part.nodes) if node not in self._attached]

    def wait_for_all(self) -> None:
        """Returns when every node has its terminal. A signal's exception may end it."""
        with self._changed:
            while len(self._attached) < self._mine.part.nodes - 1:
                self._changed.wait(TICK_SECONDS)

    def tell(self, text: str) -> None:
        """A remark for all other terminals, and for those that come later."""
        with self._changed:
            self._told.append(text)
            lines = [attached.line for attached in self._attached.values()]
        for line in lines:
            line.send(state=text)

    def finish(self, code: int, message: str, hint: str | None = None) -> None:
        """The VM has ended; the other terminals end, too."""
        self._ended = True
        with self._changed:
            lines = [attached.line for attached in self._attached.values()]
        for line in lines:
            line.send(ended={"code": code, "message": message, "hint": hint})

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Line(connection),), name="lev-terminal", daemon=True).start()

    def _serve(self, line: Line) -> None:
        node = None
        try:
            node = self._attach(line)
            while node is not None and line.receive() is not None:
                pass
        finally:
            line.close()
            if node is not None:
                self._detach(node)

    def _attach(self, line: Line) -> int | None:
        """Takes a terminal in; one that does not fit is told why."""
        try:
            line.check_peer()
            message = line.receive(HELLO_SECONDS)
            if message is None:
                # Somebody only looked whether we are here.
                return None
            hello = Hello.read(message)
            self._mine.check(hello)
            node = hello.part.node
            with self._changed:
                if node in self._attached:
                    raise UsageError(f"node {node} has a terminal already (process {self._attached[node].hello.pid})")
                line.send(welcome={"node": node, "memory": self._mine.memory})
                for text in self._told:
                    line.send(state=text)
                self._attached[node] = _Attached(hello, line)
                self._changed.notify_all()
        except TimeoutError:
            return None
        except LeviathanError as error:
            self._say(f"a terminal was refused: {error.message}")
            line.send(refused={"message": error.message, "hint": error.hint})
            return None
        self._say(f"node {node} ({hello.part}) is here: process {hello.pid}")
        return node

    def _detach(self, node: int) -> None:
        with self._changed:
            gone = self._attached.pop(node, None)
        if gone is None or self._ended:
            return
        why = f"its terminal (process {gone.hello.pid}) ended"
        if self.on_lost is not None:
            self.on_lost(node, why)
        else:
            self._say(f"node {node} went: {why}")
