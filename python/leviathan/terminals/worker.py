"""Another node's side of the meeting: finds the head's terminal, shows what happens, and ends with the VM."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leviathan.errors import GuestDied, LeviathanError, NodeLost, StartError, TimeOver, UsageError
from leviathan.terminals.hello import Hello
from leviathan.terminals.line import Line
from leviathan.terminals.post import SOCKET
from leviathan.terminals.runtime import Lock, meeting_folder, runtime_folder

__all__ = ["hold_node"]

AGAIN_SECONDS = 0.25
LOOK_AROUND_SECONDS = 3.0
ANSWER_SECONDS = 10.0
_BY_CODE: dict[int, type[LeviathanError]] = {
    2: UsageError,
    122: GuestDied,
    123: NodeLost,
    124: TimeOver,
    125: StartError,
}


def hold_node(mine: Hello, say: Callable[[str], None], *, timeout: float | None = None) -> int:
    """Holds one node until the VM ends; returns its exit code. Raises ``UsageError`` if the head refuses.

    ``timeout`` limits the wait for the head, seconds.
    """
    part = mine.part
    folder = meeting_folder(part.cpus, part.addresses)
    lock = Lock(folder / f"node-{part.node}.lock")
    if not lock.held:
        raise StartError(
            f"node {part.node} of this VM already runs (process {lock.holder or 'unknown'})",
            hint=f"the nodes' starts are {', '.join(str(node * part.cpus) for node in range(part.nodes))}",
        )
    try:
        with _connect(folder / SOCKET, mine, say, timeout) as line:
            return _follow(line, mine, say)
    finally:
        lock.close()


@contextmanager
def _connect(path: Path, mine: Hello, say: Callable[[str], None], timeout: float | None) -> Iterator[Line]:
    began = time.monotonic()
    waited = looked = False
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            break
        except OSError:
            connection.close()
        elapsed = time.monotonic() - began
        if not waited:
            say(f"node {mine.part.node} ({mine.part}) waits for node 0: start its terminal, the one with start=0")
            waited = True
        if not looked and elapsed > LOOK_AROUND_SECONDS:
            looked = True
            for text in _other_heads(path):
                say(text)
        if timeout is not None and elapsed > timeout:
            raise TimeOver(f"waited {timeout:g} s for the terminal of node 0 (start=0)", hint="start it, or --timeout")
        time.sleep(AGAIN_SECONDS)
    line = Line(connection)
    try:
        yield line
    finally:
        line.close()


def _other_heads(path: Path) -> Iterator[str]:
    """Heads of other machines that wait here: a sign that `-local-cpu` differs between the terminals."""
    for other in runtime_folder().glob(f"giant-*/{SOCKET}"):
        with socket.socket(socket.AF_UNIX) as connection:
            if other.parent == path.parent or connection.connect_ex(str(other)) != 0:
                continue
        yield (
            "node 0 of another VM waits on this machine: if it should be this one, the CPUs or the iplist in its "
            "-local-cpu differ from yours"
        )


def _follow(line: Line, mine: Hello, say: Callable[[str], None]) -> int:
    line.send(**mine.as_message())
    message = line.receive(ANSWER_SECONDS)
    if message is not None and isinstance(refused := message.get("refused"), dict):
        raise UsageError(str(refused.get("message")), hint=refused.get("hint"))
    if message is None or "welcome" not in message:
        raise NodeLost("the terminal of node 0 ended", hint="start it again, then this one")
    say(
        f"node {mine.part.node} ({mine.part}) belongs to the VM of node 0; Ctrl-C here takes it away and ends the guest"
    )
    while (message := line.receive()) is not None:
        if isinstance(state := message.get("state"), str):
            say(state)
        if isinstance(ended := message.get("ended"), dict):
            return _end(ended, say)
    raise NodeLost("the terminal of node 0 ended without a word: it was killed, or its window closed")


def _end(ended: dict[str, object], say: Callable[[str], None]) -> int:
    code = ended.get("code")
    code = code if isinstance(code, int) else 0
    text = str(ended.get("message") or "the VM has ended")
    kind = _BY_CODE.get(code)
    if kind is not None:
        hint = ended.get("hint")
        raise kind(text, hint=str(hint) if hint else None)
    say(text)
    return code
