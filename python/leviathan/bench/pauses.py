"""Stops processes at random for random times, shorter than what makes the others give them up, and lets them go on."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence

from leviathan.bench.nodes import BenchNode

__all__ = ["LONGEST", "Pauses"]

LONGEST = 3.0
"""Seconds. A node of a giant VM is given up after 4 s of silence, one of a region after 20 s in which it took nothing
(``crates/mesh/src/pulse.rs``, ``READER_TIMEOUT`` in ``crates/transport/src/lib.rs``)."""
MEAN_BETWEEN = 1.5
"""Seconds between the ends of pauses and the next, on average."""


class Pauses:
    """To be called often while nodes work. Use as a context manager; leaving lets all go on."""

    def __init__(self, nodes: Sequence[BenchNode], dice: random.Random, *, on: bool) -> None:
        self._nodes = nodes
        self._dice = dice
        self._ends: dict[int, float] = {}
        self._next = time.monotonic() + self._gap() if on else float("inf")
        self.count = [0] * len(nodes)
        """Of each node."""
        self.seconds = [0.0] * len(nodes)

    def __enter__(self) -> Pauses:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._ends):
            self._go_on(number)

    def step(self) -> None:
        """Ends pauses that are over and begins one if it is time. At least one node always runs."""
        now = time.monotonic()
        for number in [number for number, end in self._ends.items() if now >= end]:
            self._go_on(number)
        if now < self._next:
            return
        self._next = now + self._gap()
        running = [number for number in range(len(self._nodes)) if number not in self._ends]
        if len(running) < 2:
            return
        number = self._dice.choice(running)
        seconds = self._dice.uniform(0.01, 0.3) if self._dice.random() < 0.7 else self._dice.uniform(0.3, LONGEST)
        self._nodes[number].signal(signal.SIGSTOP)
        self._ends[number] = now + seconds
        self.count[number] += 1
        self.seconds[number] += seconds

    def _go_on(self, number: int) -> None:
        self._nodes[number].signal(signal.SIGCONT)
        del self._ends[number]

    def _gap(self) -> float:
        return self._dice.expovariate(1 / MEAN_BETWEEN)
