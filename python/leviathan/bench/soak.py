"""Many minutes of everything at once: nodes that share memory, with limits, a pool, evictions and pauses.

Every word that a thread reads is judged by an oracle (``crates/bench/src/soak``): what the seed says that it must hold,
given the version that its lock names. What was changed is counted beside the region, in each process, and the sums are
compared here; after each round every node reads all bytes, and their digests must be equal.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leviathan.bench.nodes import PAGE, BenchNode, answers, describe, even
from leviathan.bench.pauses import Pauses
from leviathan.bench.watch import FLUSH_THREAD, WORK_THREAD, Growth, Sample, grown, sample
from leviathan.errors import LeviathanError
from leviathan.vm.progress import Progress

__all__ = ["GROUP", "Epoch", "Options", "Soak", "judge", "memory_file"]

GROUP = 512 * PAGE
"""The memory of a soak is a multiple of this."""
SPARE = 16
"""The nodes' limits are together a sixteenth more than the region: the least that a giant VM takes, too."""
POOL_PART = 32
"""The pool is so much of the region, so that not everything ends in it."""
ROUND = 15.0
"""Seconds of work between two looks at everything."""
SHORTEST = 2.0
STALL = 60
"""Seconds after which a thread that gets nowhere hangs."""
SAMPLE_EVERY = 0.5
SETTLE = 10.0
"""Seconds within which threads that have been told to end must have done so."""
LIMIT = 300.0
"""Seconds within which an answer must be there, beside the work itself."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to do."""

    seconds: float = 1800.0
    nodes: int = 4
    memory: int = 32 << 20
    threads: int = 3
    epoch: float = 300.0
    """Seconds after which the region is left and a new one joined, with other settings of the engine."""
    seed: int = 0
    pauses: bool = True

    @property
    def node_limit(self) -> int:
        """Bytes of the region that a node may hold."""
        pages = self.memory // PAGE * (SPARE + 1) // SPARE // self.nodes
        return max(pages + 1, 256) * PAGE

    @property
    def pool(self) -> int:
        """Bytes that all nodes map."""
        return self.memory // POOL_PART


@dataclass(slots=True)
class Epoch:
    """What one region saw."""

    engine: dict[str, int]
    pool: bool
    seconds: float = 0.0
    rounds: int = 0
    bytes_verified: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    counters: list[dict[str, int]] = field(default_factory=list)
    """The engine's, by node."""
    resident_peak: list[int] = field(default_factory=list)
    """Pages, by node, as the engine counts them."""
    region_peak: list[int] = field(default_factory=list)
    """Bytes, by node, as the kernel counted them in samples."""


class Soak:
    """One soak; ``failures`` says what was wrong."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.dice = random.Random(options.seed)  # noqa: S311 (not for secrets)
        self.failures: list[str] = []
        self.epochs: list[Epoch] = []
        self.idle: list[list[Sample]] = []
        """By node: before the first epoch and after each, in no region."""
        self.peak = [0] * options.nodes
        """Most resident bytes of each process."""
        self.pauses: list[tuple[int, float]] = []
        """Number and seconds, by node."""

    def run(self) -> None:
        """Runs all epochs, or up to the first failure."""
        options = self.options
        end = time.monotonic() + options.seconds
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(options.nodes)]
            nodes = [stack.enter_context(BenchNode(f"node{number}", log)) for number, log in enumerate(logs)]
            pauses = stack.enter_context(Pauses(nodes, self.dice, on=options.pauses))
            for node in nodes:
                node.ask("census")  # it has started
            self.idle = [[sample(node.pid)] for node in nodes]
            try:
                while (left := end - time.monotonic()) > 0 and not self.failures:
                    epochs = max(round(left / options.epoch), 1)
                    name = f"epoch {len(self.epochs) + 1}"
                    with self.progress.step(name):
                        self._epoch(nodes, pauses, left / epochs)
                if not self.failures:
                    self._compare_idle()
            except LeviathanError as error:
                self.failures.append(error.message)
            for node, log in zip(nodes, logs, strict=True):
                log.seek(0)
                text = log.read().decode(errors="replace")
                self.failures += [f"{node.name} wrote: {line}" for line in text.splitlines()]
            self.pauses = list(zip(pauses.count, pauses.seconds, strict=True))

    def _settings(self) -> tuple[dict[str, int], bool]:
        """Of the engine; the first epoch has its defaults and the pool."""
        engine = {"node_memory": self.options.node_limit}
        if not self.epochs:
            return engine, True
        choose = self.dice.choice
        engine |= {
            "promote_after": choose((2, 8, 32)),
            "demote_after_ms": choose((0, 1, 10)),
            "hold_us": choose((0, 50, 500)),
            "stripes": choose((1, 4)),
            "zero_block": choose((1, 64, 512)),
            "read_ahead": choose((0, 16)),
            "prefetch": choose((0, 16)),
        }
        return engine, self.dice.random() < 0.75

    def _epoch(self, nodes: Sequence[BenchNode], pauses: Pauses, seconds: float) -> None:
        engine, pooled = self._settings()
        epoch = Epoch(engine, pooled)
        self.epochs.append(epoch)
        begun = time.monotonic()
        with memory_file(self.options.pool if pooled else 0) as pool:
            places = self._join(nodes, engine, pool)
        watcher = _Watcher(nodes, places)

        def meanwhile() -> None:
            pauses.step()
            watcher.step()
            self.progress.tick()

        seed = self.dice.getrandbits(63)
        plan = {"seed": seed, "threads": self.options.threads}
        # At least one round, however long joining took.
        while ((left := seconds - (time.monotonic() - begun)) > 0 or epoch.rounds == 0) and not self.failures:
            work = min(max(left, SHORTEST), ROUND)
            for node in nodes:
                node.tell("work", plan=plan, ms=int(work * 1000), stall_s=STALL)
            worked = answers(nodes, meanwhile, work + LIMIT)
            for node in nodes:
                node.tell("verify")
            verified = answers(nodes, meanwhile, LIMIT)
            epoch.rounds += 1
            epoch.bytes_verified += self.options.memory * len(nodes)
            self.failures += judge(worked, verified)
            epoch.operations = Counter()
            for answer in worked:
                epoch.operations.update(answer["operations"])
        self._end(nodes, pauses, epoch, watcher)
        epoch.seconds = time.monotonic() - begun

    def _join(self, nodes: Sequence[BenchNode], engine: dict[str, int], pool: str | None) -> list[tuple[int, int]]:
        """All nodes join a new region; where it lies in each process."""
        addresses = [node.ask("listen")["address"] for node in nodes]
        homes = even(self.options.memory // PAGE, len(nodes))
        described = None if pool is None else {"path": pool, "len": self.options.pool}
        cluster = describe(nodes, addresses, homes, engine, described)
        for number, node in enumerate(nodes):
            node.tell("join", cluster=cluster, node=number)
        return [(answer["base"], answer["len"]) for answer in answers(nodes, self.progress.tick, LIMIT)]

    def _end(self, nodes: Sequence[BenchNode], pauses: Pauses, epoch: Epoch, watcher: _Watcher) -> None:
        """Counts, compares with the limits, and leaves the region."""
        for node in nodes:
            node.tell("counters")
        epoch.counters = [answer["counters"] for answer in answers(nodes, pauses.step, LIMIT)]
        epoch.resident_peak = [counters["resident_peak"] for counters in epoch.counters]
        epoch.region_peak = watcher.peak
        for number, node in enumerate(nodes):
            self.failures += [f"{node.name} held {words}" for words in self._over_limit(epoch, number)]
            found = watcher.growth[number].found({FLUSH_THREAD: len(nodes) - 1, WORK_THREAD: self.options.threads})
            self.failures += [f"{node.name} grew within an epoch: {what}" for what in found]
        for node in nodes:
            node.tell("leave")
        answers(nodes, pauses.step, LIMIT)
        pauses.__exit__()
        for number, node in enumerate(nodes):
            seen = settled(node.pid, self.idle[number][0])
            self.idle[number].append(seen)
            self.peak[number] = seen.peak

    def _over_limit(self, epoch: Epoch, node: int) -> Iterator[str]:
        """Too much memory, in words."""
        limit = self.options.node_limit
        peaks = (("the engine", epoch.resident_peak[node] * PAGE), ("the kernel", epoch.region_peak[node]))
        for who, peak in peaks:
            if peak > limit + limit // SPARE:
                yield f"{peak} bytes as {who} counts; its limit is {limit}, and a sixteenth for what is on its way"

    def _compare_idle(self) -> None:
        """Between two regions a process must have no more than before the first one; memory: than after it."""
        for number, samples in enumerate(self.idle):
            if len(samples) > 1:
                before = replace(samples[0], own=samples[1].own)
                found = grown((before,), samples[-1:], {})
                self.failures += [f"node{number} grew from the first epoch to the last: {what}" for what in found]


class _Watcher:
    """Looks at all processes now and then."""

    def __init__(self, nodes: Sequence[BenchNode], places: Sequence[tuple[int, int]]) -> None:
        self._nodes = nodes
        self._places = places
        self._next = 0.0
        self.growth = [Growth() for _ in nodes]
        self.peak = [0] * len(nodes)

    def step(self) -> None:
        """Looks if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SAMPLE_EVERY
        for number, node in enumerate(self._nodes):
            try:
                seen = sample(node.pid, *self._places[number])
            except OSError:
                continue  # it has ended, which its answer will tell
            self.growth[number].add(seen)
            self.peak[number] = max(self.peak[number], seen.region)


def settled(pid: int, before: Sample, seconds: float = SETTLE) -> Sample:
    """What a process is once it has no more threads and descriptors than ``before``, or after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        seen = sample(pid)
        if not grown((replace(before, own=seen.own),), (seen,), {}) or time.monotonic() > end:
            return seen
        time.sleep(0.05)


@contextlib.contextmanager
def memory_file(size: int) -> Iterator[str | None]:
    """Memory that processes of this machine open by a path; it lives as long as one of them maps it. 0: none."""
    if size == 0:
        yield None
        return
    descriptor = os.memfd_create("lev-pool", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def judge(worked: Sequence[dict[str, Any]], verified: Sequence[dict[str, Any]]) -> list[str]:
    """What was wrong in a round: what the nodes found, sums that are not exact, contents that are not the same."""
    wrong: list[str] = []
    for number, (work, look) in enumerate(zip(worked, verified, strict=True)):
        wrong += [f"node{number} read: {finding}" for finding in work["findings"]]
        wrong += [f"node{number} found: {finding}" for finding in look["findings"]]
    for held, done, what in (
        ("counters", "added", "counter {} is {} after {} additions"),
        ("versions", "made", "block {} has version {} after {} changes"),
    ):
        sums = [sum(parts) for parts in zip(*(look[done] for look in verified), strict=True)]
        for place, (value, total) in enumerate(zip(verified[0][held], sums, strict=True)):
            if value != total:
                wrong.append(what.format(place, value, total))
    for number, look in enumerate(verified[1:], 1):
        groups = [
            group
            for group, pair in enumerate(zip(verified[0]["digests"], look["digests"], strict=True))
            if len(set(pair)) > 1
        ]
        if groups:
            wrong.append(f"node0 and node{number} see different bytes in groups {groups} of 512 pages")
    return wrong
