"""What processes of a measurement use, as the kernel says it: memory, threads, descriptors; and what grew."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Growth", "Sample", "sample"]

KIB = 1024
FLUSH_THREAD = "lev-flush"
"""Started when a peer is slow for the first time, at most one a peer: they may come late, and are no growth."""
WORK_THREAD = "work"
"""Does the measurement's own work. It comes and goes with each round, and is no growth up to the number asked for."""
FEWEST = 3
"""Samples in a quarter of those of :class:`Growth`. One alone may have caught a thread at its birth, when it still has
the name of its parent, or a file that was open for a moment."""
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
    """Resident bytes of its own (not of the pool) within the region, give or take what the kernel batches (pages)."""
    own: int
    """Resident anonymous bytes outside of the region."""
    peak: int
    """The most resident bytes of all kinds that the process ever had."""


def sample(pid: int, base: int = 0, length: int = 0) -> Sample:
    """Looks at a process whose region lies at ``base``. Raises ``OSError`` if it has gone.

    Mappings are read one after the other, while pages come and go by thousands a second: those of the region are not
    added up, or one that goes would be counted before and another that comes in its place after. The region is what the
    kernel's one counter has more than the other mappings, in which little moves.
    """
    folder = Path(f"/proc/{pid}")
    threads = Counter(_names(folder))
    descriptors = sum(1 for _ in (folder / "fd").iterdir())
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    )
    if "RssAnon" not in status:
        raise ProcessLookupError(f"process {pid} has ended")
    own = _outside((folder / "smaps").read_text(encoding="utf-8", errors="replace"), base, base + length)
    region = max(_kib(status["RssAnon"]) - own, 0) if length else 0
    return Sample(threads, descriptors, region, own, _kib(status["VmHWM"]))


def _names(folder: Path) -> Iterator[str]:
    for task in (folder / "task").iterdir():
        try:
            yield (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # it has ended


def _kib(text: str) -> int:
    return int(text.split()[0]) * KIB


def _outside(smaps: str, start: int, end: int) -> int:
    """Resident anonymous bytes of the mappings not in ``[start, end)``; ``smaps``: the text of that file in /proc."""
    total, outside = 0, False
    for line in smaps.splitlines():
        if (mapping := _VMA.fullmatch(line)) is not None:
            first, last = int(mapping[1], 16), int(mapping[2], 16)
            outside = not (start <= first and last <= end)
        elif outside and line.startswith("Anonymous:"):
            total += _kib(line.split(":", 1)[1])
    return total


class Growth:
    """Compares the samples of one process at the end with those after its warm-up."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, seen: Sample) -> None:
        """One more."""
        self.samples.append(seen)

    def found(self, ceilings: Mapping[str, int]) -> list[str]:
        """What grew between the second and the last quarter, in words, as :func:`grown`; nothing of too few samples."""
        quarter = len(self.samples) // 4
        if quarter < FEWEST:
            return []
        return grown(self.samples[quarter : 2 * quarter], self.samples[-quarter:], ceilings)


def grown(before: Sequence[Sample], after: Sequence[Sample], ceilings: Mapping[str, int]) -> list[str]:
    """What is more in ``after`` than it was in ``before``.

    ``ceilings``: how many threads of a name there may be, for those that come and go.
    """
    found = []
    for name in sorted({name for seen in after for name in seen.threads}):
        counts = [seen.threads[name] for seen in after]
        if name in ceilings:
            allowed, number = ceilings[name], max(counts)
        else:  # what leaks is there in every sample
            allowed, number = max(seen.threads[name] for seen in before), min(counts)
        if number > allowed:
            found.append(f"threads {name}: {allowed} -> {number}")
    # The engine opens files in /proc (pagemap, maps) for a moment. What leaks is open in every sample.
    least, allowed = (min(seen.descriptors for seen in part) for part in (after, before))
    if least > allowed:
        found.append(f"descriptors: {allowed} -> {least}")
    most, allowed = (max(seen.own for seen in part) for part in (after, before))
    if most > allowed + OWN_TOLERANCE:
        found.append(f"memory outside of the region: {allowed / KIB:.0f} -> {most / KIB:.0f} KiB")
    return found
