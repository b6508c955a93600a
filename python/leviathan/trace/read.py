"""Reads traces. Rust checks a file (``crates/trace``); here its events get their names."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from leviathan import _native
from leviathan.errors import ConfigError

__all__ = ["DTYPE", "Event", "Home", "Kind", "Trace"]

DTYPE = [("at_ns", "<u8"), ("place", "<u8"), ("kind", "u1"), ("flags", "u1"), ("other", "<u2"), ("thread", "<u4")]
"""Fields of an event for NumPy: the page is the lower 48 bits of ``place``, the node the upper 16."""
_EVENT = struct.Struct("<QQBBHI")
_PAGE_BITS = 48
_WRITE, _ZERO, _UNASKED = 1, 2, 4


class Kind(IntEnum):
    """What happened; the words are explained in ``crates/trace/src/record.rs`` and the guide."""

    READ = 1
    WRITE = 2
    UPGRADE = 3
    TOUCH = 4
    JOIN = 5
    STALE = 6
    FILL = 7
    GRANT = 8
    DROP = 9
    PROTECT = 10
    SEND = 11
    POOL = 12
    UNPOOL = 13
    HOLD = 14
    WAIT = 15
    COLLECT = 16

    @property
    def is_fault(self) -> bool:
        """An access of a thread that its node could not satisfy at once."""
        return self <= Kind.JOIN


class Event(NamedTuple):
    """One event of one page."""

    at_ns: int
    """Nanoseconds since the start of the trace, by the head's clock."""
    page: int
    """Number of the page: its address in QEMU divided by 4096."""
    node: int
    kind: Kind
    flags: int
    other: int
    """Another node, for ``SEND``: who gets it."""
    thread: int
    """The thread that faulted, as its kernel numbers it; for ``FILL``: how many pages."""

    @property
    def write(self) -> bool:
        """The access, or the right that is given, is to write."""
        return bool(self.flags & _WRITE)

    @property
    def zero(self) -> bool:
        """The contents are zero, and none travelled."""
        return bool(self.flags & _ZERO)

    @property
    def unasked(self) -> bool:
        """Sent ahead, or given away for want of room."""
        return bool(self.flags & _UNASKED)


class Home(NamedTuple):
    """``pages`` pages from ``first`` on are at home on ``node``."""

    first: int
    pages: int
    node: int


@dataclass(frozen=True, slots=True)
class Trace:
    """The events of all nodes of a run in the order of their time, or those of one node."""

    nodes: int
    """Nodes of the cluster."""
    node: int | None
    """Whose events these are; ``None``: of all nodes."""
    finished: bool
    """The file was written to its end."""
    start_ns: int
    """The node's monotonic clock at time 0."""
    clock_offset_ns: int
    """To be added to the node's clock for the head's."""
    dropped: int
    """Events that were not recorded because too many came at once."""
    cut: int
    """Events after the file had its greatest length."""
    promote_after: int
    """Changes of rights after which a page moved into the pool; 0: there was none."""
    hold_us: int
    """Shortest time that a granted page stayed."""
    homes: tuple[Home, ...]
    data: bytes
    """The events, 24 bytes each; see ``DTYPE``."""

    @classmethod
    def parse(cls, data: bytes) -> Trace:
        """Reads a file's bytes. Raises ``ValueError`` with the offset at which they are wrong."""
        facts, events = _native.read_trace(data)
        table: dict[str, Any] = json.loads(facts)
        homes = tuple(Home(*run) for run in table.pop("homes"))
        return cls(homes=homes, data=events, **table)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Reads a file. Raises ``ConfigError`` that names it and the offset at which it is wrong."""
        return cls.parse_file(Path(path))[0]

    @classmethod
    def parse_file(cls, path: Path) -> tuple[Trace, bytes]:
        """A file's trace and bytes; as ``load``."""
        data = read_bytes(path)
        try:
            return cls.parse(data), data
        except ValueError as error:
            raise ConfigError(f"{path}: {error}", hint="`lev trace record` writes traces") from error

    def __len__(self) -> int:
        return len(self.data) // _EVENT.size

    def __iter__(self) -> Iterator[Event]:
        mask = (1 << _PAGE_BITS) - 1
        for at_ns, place, kind, flags, other, thread in _EVENT.iter_unpack(self.data):
            yield Event(at_ns, place & mask, place >> _PAGE_BITS, Kind(kind), flags, other, thread)


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises ``ConfigError``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
