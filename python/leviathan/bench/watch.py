"""What processes of a measurement use, as the kernel says it: memory, threads, descriptors; and what grew."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Growth", "Sample", "sample"]

KIB = 1024
FLUSH_THREAD = "lev-flush"
"""Started when a peer is slow for the first time, at most one a peer: they may come late, and are no growth."""
OWN_TOLERANCE = 8 << 20
"""Bytes by which a process's own memory may grow: queues for a peer that was slow are kept."""

_VMA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) .{4} [0-9a-f]+ \S+ \d+ *(.*)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    threads: Counter[str] = field(repr=False)
    """By name."""
    descriptors: int
    region: int
    """Resident bytes of its own (not of the pool) within the region."""
    own: int
    """Resident anonymous bytes outside of the region."""
    peak: int
    """The most resident bytes of all kinds that the process ever had."""


def sample(pid: int, base: int = 0, length: int = 0) -> Sample:
    """Looks at a process whose region lies at ``base``. Raises ``OSError`` if it has gone."""
    folder = Path(f"/proc/{pid}")
    threads = Counter(_names(folder))
    descriptors = sum(1 for _ in (folder / "fd").iterdir())
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    )
    if "RssAnon" not in status:
        raise ProcessLookupError(f"process {pid} has ended")
    anonymous = _kib(status["RssAnon"])
    region = _resident((folder / "smaps").read_text(encoding="utf-8", errors="replace"), base, base + length)
    return Sample(threads, descriptors, region, max(anonymous - region, 0), _kib(status["VmHWM"]))


def _names(folder: Path) -> Iterator[str]:
    for task in (folder / "task").iterdir():
        try:
            yield (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # it has ended


def _kib(text: str) -> int:
    return int(text.split()[0]) * KIB


def _resident(smaps: str, start: int, end: int) -> int:
    """Resident anonymous bytes of the mappings in ``[start, end)``; ``smaps``: the text of that file in /proc."""
    total, inside = 0, False
    for line in smaps.splitlines():
        if (mapping := _VMA.fullmatch(line)) is not None:
            first, last = int(mapping[1], 16), int(mapping[2], 16)
            inside = start <= first and last <= end
        elif inside and line.startswith("Anonymous:"):
            total += _kib(line.split(":", 1)[1])
    return total


class Growth:
    """Compares the samples of one process at the end with those after its warm-up."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, seen: Sample) -> None:
        """One more."""
        self.samples.append(seen)

    def found(self, peers: int) -> list[str]:
        """What grew between the second and the last quarter, in words; ``peers``: other nodes."""
        quarter = len(self.samples) // 4
        if quarter == 0:
            return []
        return grown(self.samples[quarter : 2 * quarter], self.samples[-quarter:], peers)


def grown(before: Sequence[Sample], after: Sequence[Sample], peers: int) -> list[str]:
    """What is more in ``after`` than it was in ``before``."""
    found = []
    for name in sorted({name for seen in after for name in seen.threads}):
        most = max(seen.threads[name] for seen in after)
        allowed = peers if name == FLUSH_THREAD else max(seen.threads[name] for seen in before)
        if most > allowed:
            found.append(f"threads {name}: {allowed} -> {most}")
    # The engine opens files in /proc (pagemap, maps) for a moment. What leaks is open in every sample.
    least, allowed = (min(seen.descriptors for seen in part) for part in (after, before))
    if least > allowed:
        found.append(f"descriptors: {allowed} -> {least}")
    most, allowed = (max(seen.own for seen in part) for part in (after, before))
    if most > allowed + OWN_TOLERANCE:
        found.append(f"memory outside of the region: {allowed / KIB:.0f} -> {most / KIB:.0f} KiB")
    return found
