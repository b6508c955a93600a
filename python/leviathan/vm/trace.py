"""Traces of guest memory: switched on and off while a VM runs, and fetched from its nodes.

Every node can write one; the head starts and ends all of them together while a file beside its own says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from leviathan import _native
from leviathan.errors import LeviathanError, UsageError
from leviathan.launch.host import Host
from leviathan.model.machine import Machine
from leviathan.vm.mailbox import Event
from leviathan.vm.progress import Progress

__all__ = ["check_trace", "fetch", "note_trace", "save", "switch", "trace_path"]

ON = b"on\n"
OFF = b"off\n"


def trace_path(folder: str, name: str) -> str:
    """Where the node called ``name`` writes, on its host."""
    return f"{folder}/{name}.trace"


def check_trace(machine: Machine, path: Path | None) -> None:
    """Finds out before the work that there will be no trace. Raises ``UsageError``."""
    if path is None:
        return
    if machine.stock or len(machine.shares()) < 2:
        raise UsageError("a trace is of memory that nodes share: it needs two nodes or more", hint="--nodes 2")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"the trace: there is no folder {path.resolve().parent}")
    if path.is_dir():
        raise UsageError(f"the trace: {path} is a folder", hint="name a file in it")


def switch(host: Host, path: str, *, on: bool) -> None:
    """Tells the head, whose trace is ``path``, to have all nodes begin or end theirs; it looks twice a second."""
    host.put(f"{path}.on", ON if on else OFF)


def note_trace(event: Event, progress: Progress) -> None:
    """Tells the user if this event says that there will be no trace."""
    if (event.source, event.kind, event.text("state")) == ("head", "trace", "failed"):
        progress.note(f"there is no trace: {event.text('message')}")


def fetch(nodes: Iterable[tuple[Host, str]]) -> bytes:
    """The traces of nodes, each a host and a path, joined into one. Raises ``LeviathanError``."""
    parts = []
    for host, path in nodes:
        # A node that was lost may have none.
        with suppress(OSError, LeviathanError):
            parts.append(host.get(path))
    try:
        return _native.merge_traces(parts)
    except ValueError as error:
        raise LeviathanError(f"the nodes' traces cannot be joined: {error}") from error


def save(path: Path, data: bytes) -> None:
    """Writes the file whole or not at all. Raises ``UsageError``."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(f"the trace: cannot write {path}: {error.strerror}") from error
