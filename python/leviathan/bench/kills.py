"""Peers killed at random, many times: every survivor names who is lost within the limit, and nothing is left behind.

Each round is a small region of its own between two to five processes, of which one or two are killed while it is
joined, while all work, or while it is left.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from leviathan.bench.nodes import PAGE, BenchNode, describe, even
from leviathan.bench.soak import GROUP, memory_file
from leviathan.errors import LeviathanError, TimeOver

__all__ = ["LIMIT", "PHASES", "Kills", "Round"]

LIMIT = 5.0
"""Seconds within which every survivor must say who is lost: what a giant VM promises."""
JOIN_LIMIT = 6.0
"""Seconds that a process waits for the others to join. One that is killed before it came is named after that."""
HANG = 60.0
"""Seconds after which a survivor that has said nothing hangs."""
SETTLE = 5.0
"""Seconds within which the threads of a lost region must have ended."""
PHASES = ("join", "work", "leave")
MEMORY = 2 * GROUP
POOL = MEMORY // 8
THREADS = 2
PARKED = "work"
"""Threads that touched lost memory: they stop for good, in ``crates/bench/src/soak/trap.rs``."""


@dataclass(slots=True)
class Round:
    """What happened in one round."""

    number: int
    phase: str
    nodes: int
    killed: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From the kill to the report of each survivor that reported a loss."""
    left: int = 0
    """Survivors for which all ended well, because the killed one had nothing left to do."""
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For people."""
        victims = " and ".join(f"node{victim}" for victim in self.killed)
        return f"round {self.number} ({self.nodes} nodes, {victims or 'nobody'} killed, {self.phase})"


class Kills:
    """Runs rounds, several at the same time."""

    def __init__(self, rounds: int, seed: int, jobs: int) -> None:
        self._numbers = range(rounds)
        self._seed = seed
        self._jobs = jobs
        self._stop = threading.Event()
        self.rounds: list[Round] = []
        """Those that are over."""

    def run(self, tick: Callable[[], None]) -> None:
        """Runs all rounds; calls ``tick`` now and then."""
        with ThreadPoolExecutor(self._jobs) as pool:
            running: set[Future[Round]] = {pool.submit(self._round, number) for number in self._numbers}
            try:
                while running:
                    done, running = wait(running, 0.2, FIRST_COMPLETED)
                    self.rounds += [future.result() for future in done]
                    tick()
            finally:
                self._stop.set()
                for future in running:
                    future.cancel()
        self.rounds.sort(key=lambda each: each.number)

    def _round(self, number: int) -> Round:
        dice = random.Random(f"{self._seed}:{number}")  # noqa: S311 (not for secrets)
        count = dice.choice((2, 3, 3, 4, 5))
        this = Round(number, dice.choices(PHASES, (1, 3, 1))[0], count)
        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
            nodes = [BenchNode(f"node{node}", log) for node, log in enumerate(logs)]
            try:
                _Attempt(this, nodes, dice, self._stop).run()
            except LeviathanError as error:
                this.failures.append(error.message)
            finally:
                codes = [node.end() for node in nodes]
            for node, code in enumerate(codes):
                expected = -signal.SIGKILL if node in this.killed else 0
                if code != expected:
                    this.failures.append(f"node{node} ended with code {code}, not {expected}")
                logs[node].seek(0)
                text = logs[node].read().decode(errors="replace")
                known = re.compile(r"leviathan: node\d+ is lost: .*; memory shared with it is gone")
                strange = [line for line in text.splitlines() if not known.fullmatch(line)]
                this.failures += [f"node{node} wrote: {line}" for line in strange]
        return this


class _Attempt:
    """The processes of one round."""

    def __init__(self, this: Round, nodes: Sequence[BenchNode], dice: random.Random, stop: threading.Event) -> None:
        self._this = this
        self._nodes = nodes
        self._dice = dice
        self._stop = stop
        self._killed_ns = 0
        self._kill_at = float("inf")
        self._victims = sorted(dice.sample(range(len(nodes)), 2 if len(nodes) > 2 and dice.random() < 0.25 else 1))

    def run(self) -> None:
        self._census = {node.name: node.ask("census") for node in self._nodes}
        joined = self._join()
        if joined:
            self._live(joined)
        self._examine()

    def _join(self) -> list[BenchNode]:
        """All join a region; those that did and are alive."""
        dice, count = self._dice, len(self._nodes)
        addresses = [node.ask("listen")["address"] for node in self._nodes]
        limit = max(MEMORY * 5 // 4 // count, 1 << 20) // PAGE * PAGE
        engine = {"promote_after": 4} | ({"node_memory": limit} if dice.random() < 0.5 else {})
        with memory_file(POOL if dice.random() < 0.5 else 0) as pool:
            described = None if pool is None else {"path": pool, "len": POOL}
            cluster = describe(self._nodes, addresses, even(MEMORY // PAGE, count), engine, described)
            for number, node in enumerate(self._nodes):
                node.tell("join", cluster=cluster, node=number, limit_ms=int(JOIN_LIMIT * 1000))
            if self._this.phase == "join":
                self._kill_after(dice.expovariate(1 / 0.02))
            return self._joined()

    def _live(self, joined: Sequence[BenchNode]) -> None:
        """They work and leave, or say who is lost."""
        dice, phase = self._dice, self._this.phase
        plan = {"seed": dice.getrandbits(63), "threads": THREADS}
        for node in joined:
            # Whoever leaves first serves the others until they do, too.
            node.tell("live", plan=plan, ms=dice.randrange(1, 200) if phase == "leave" else 0)
        if phase != "join":
            self._kill_after(dice.uniform(0, 0.5 if phase == "work" else 0.25))
        self._hear(joined)

    def _survivors(self) -> list[BenchNode]:
        return [node for number, node in enumerate(self._nodes) if number not in self._this.killed]

    def _kill_after(self, seconds: float) -> None:
        self._kill_at = time.monotonic() + max(seconds, 0.0)

    def _step(self) -> None:
        if self._stop.is_set():
            raise TimeOver("stopped")
        if time.monotonic() < self._kill_at:
            return
        self._kill_at = float("inf")
        self._killed_ns = time.monotonic_ns()
        for victim in self._victims:
            self._nodes[victim].signal(signal.SIGKILL)
        self._this.killed = self._victims

    def _joined(self) -> list[BenchNode]:
        """Waits until all survivors have joined or said why not; those that have joined."""
        joined: list[BenchNode] = []
        waiting = list(self._nodes)
        deadline = time.monotonic() + JOIN_LIMIT + HANG
        while waiting:
            self._step()
            if time.monotonic() > deadline:
                raise TimeOver(f"{waiting[0].name} neither joined nor said why not within {JOIN_LIMIT + HANG:.0f} s")
            for node in list(waiting):
                try:
                    if node not in self._survivors():
                        waiting.remove(node)
                    elif node.wait(0.002):
                        waiting.remove(node)
                        node.answer()
                        joined.append(node)
                except LeviathanError as error:
                    if node in self._survivors():
                        self._reported(node, error.message, time.monotonic_ns(), JOIN_LIMIT + LIMIT)
        # One that is killed after it joined is found by the others at once.
        while self._this.phase == "join" and not self._this.killed:
            time.sleep(0.001)
            self._step()
        return [node for node in joined if node in self._survivors()]

    def _hear(self, nodes: Sequence[BenchNode]) -> None:
        """What each survivor says."""
        waiting = list(nodes)
        deadline = time.monotonic() + HANG
        while waiting:
            self._step()
            waiting = [node for node in waiting if node in self._survivors()]
            for node in list(waiting):
                if time.monotonic() > deadline:
                    self._this.failures.append(f"{node.name} hangs: it has said nothing for {HANG:.0f} s")
                    waiting.remove(node)
                    node.signal(signal.SIGKILL)
                elif self._ready(node):
                    waiting.remove(node)
                    answer = node.answer()
                    if answer["lost"] is not None:
                        self._reported(node, answer["lost"], answer["at_ns"], LIMIT)
                    elif self._this.phase == "leave":
                        self._this.left += 1
                    else:
                        self._this.failures.append(f"{node.name} left as if nobody had been killed")
        while not self._this.killed:
            time.sleep(0.001)
            self._step()

    def _ready(self, node: BenchNode) -> bool:
        try:
            return node.wait(0.002)
        except LeviathanError:
            if self._this.killed and node not in self._survivors():
                return False
            raise

    def _reported(self, node: BenchNode, text: str, at_ns: int, limit: float) -> None:
        named = {int(number) for number in re.findall(r"\bnode(\d+)\b", text)}
        seconds = (at_ns - self._killed_ns) / 1e9
        if not self._this.killed:
            self._this.failures.append(f"{node.name} gave up before anybody was killed: {text}")
        elif not named & set(self._this.killed):
            self._this.failures.append(f"{node.name} does not name who is lost: {text}")
        elif seconds > limit:
            self._this.failures.append(f"{node.name} took {seconds:.1f} s: {text}")
        self._this.seconds.append(seconds)

    def _examine(self) -> None:
        """Nothing of the region is left in the survivors."""
        deadline = time.monotonic() + SETTLE
        for node in self._survivors():
            while found := self._left_over(node.name, node.ask("census")):
                if time.monotonic() > deadline:
                    self._this.failures.append(f"{node.name} keeps {', '.join(found)}")
                    break
                time.sleep(0.01)

    def _left_over(self, name: str, now: dict[str, Any]) -> list[str]:
        before = self._census[name]
        kinds = re.compile(r":.*")  # the number of a socket says nothing
        found: list[str] = []
        for what in ("threads", "descriptors"):
            more = Counter(kinds.sub("", each) for each in now[what] if each != PARKED)
            more.subtract(Counter(kinds.sub("", each) for each in before[what]))
            found += [f"{count} {what} {each}" for each, count in more.items() if count > 0]
        return found
