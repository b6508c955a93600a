"""Processes of ``lev-bench`` on this machine: each is one node of a measurement and does what it is told, line by line.

The commands are those of ``crates/bench/src/command.rs``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from leviathan.errors import LaunchError, LeviathanError, TimeOver
from leviathan.launch.programs import program
from leviathan.vm.cluster import Identity

__all__ = ["PAGE", "BenchNode", "Team", "answers", "describe", "even"]

PAGE = 4096
ANSWER_SECONDS = 180.0
END_SECONDS = 5.0


class BenchNode:
    """One process. Use as a context manager; leaving ends it. ``log`` gets its standard error, else ours."""

    def __init__(self, name: str, log: IO[bytes] | None = None) -> None:
        self.name = name
        path = program("lev-bench")
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen([path], stdin=pipe, stdout=pipe, stderr=log, bufsize=0)
        except OSError as error:
            raise LaunchError(f"cannot start {path}: {error.strerror}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        self._buffer = bytearray()

    def __enter__(self) -> BenchNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def tell(self, do: str, **arguments: Any) -> None:
        """Gives a command; its answer is to be fetched with ``answer``."""
        with contextlib.suppress(BrokenPipeError):  # the answer will say what happened
            self._input.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command. Raises ``LeviathanError`` with the node's words if it failed."""
        if not self.wait(ANSWER_SECONDS):
            raise TimeOver(f"{self.name} did not answer within {ANSWER_SECONDS:.0f} s")
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LeviathanError(f"{self.name}: {answer['error']}")
        return answer

    def wait(self, seconds: float) -> bool:
        """Whether an answer is there, after at most so long. Raises ``LeviathanError`` if the process has ended."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            data = os.read(self._output.fileno(), 1 << 16)
            if not data:
                code = self._process.wait(END_SECONDS)
                raise LeviathanError(f"{self.name} ended with exit code {code} instead of an answer")
            self._buffer += data
        return True

    def fileno(self) -> int:
        """What becomes readable when there may be an answer."""
        return self._output.fileno()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Sends a signal; nothing happens if the process has ended."""
        self._process.send_signal(number)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Gives a command and waits for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def end(self) -> int:
        """Ends the process, which has no state worth waiting for; its exit code, negative for a signal."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._output.close()
        return code


def answers(
    nodes: Sequence[BenchNode], meanwhile: Callable[[], None], seconds: float, tick: float = 0.02
) -> list[dict[str, Any]]:
    """The answers of all nodes to what they were told; ``meanwhile`` is called every ``tick`` seconds until then."""
    deadline = time.monotonic() + seconds
    while missing := [node for node in nodes if not node.wait(0)]:
        if time.monotonic() > deadline:
            names = ", ".join(node.name for node in missing)
            raise TimeOver(f"{names} did not answer within {seconds:.0f} s")
        meanwhile()
        select.select(missing, [], [], tick)
    return [node.answer() for node in nodes]


def even(pages: int, count: int) -> list[tuple[int, int]]:
    """The pages of a region in equal runs, one at home on each of ``count`` nodes."""
    return [(pages * (node + 1) // count - pages * node // count, node) for node in range(count)]


def describe(
    nodes: Sequence[BenchNode],
    addresses: Sequence[str],
    pages: Sequence[tuple[int, int]],
    engine: Mapping[str, int],
    pool: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The cluster of one region; ``pages``: runs of ``(pages, home node)``, in order."""
    identity = Identity.new()
    members = [
        {"name": node.name, "address": address, "vcpus": []} for node, address in zip(nodes, addresses, strict=True)
    ]
    memory, end = [], 0
    for count, home in pages:
        memory.append({"gpa": end * PAGE, "len": count * PAGE, "node": home})
        end += count
    return {
        "schema": 1,
        "run_id": identity.run_id,
        "secret": identity.secret,
        "nodes": members,
        "memory": memory,
        "engine": dict(engine),
        "pool": None if pool is None else dict(pool),
    }


class Team:
    """Several nodes with one coherent region. Use as a context manager; leaving takes it apart and ends them."""

    def __init__(
        self,
        count: int,
        pages: Sequence[tuple[int, int]],
        engine: Mapping[str, int] | None = None,
        *,
        transport: str = "tcp",
    ) -> None:
        """``pages``: runs of ``(pages, home node)`` in order; ``engine``: tunables that are not at their defaults."""
        self.transport = transport
        self.nodes: list[BenchNode] = []
        try:
            self._start(count, pages, dict(engine or {}))
        except BaseException:
            self.end()
            raise

    def _start(self, count: int, pages: Sequence[tuple[int, int]], engine: dict[str, int]) -> None:
        for number in range(count):
            self.nodes.append(BenchNode(f"node{number}"))
        addresses = [answer["address"] for answer in self.all("listen")]
        cluster = describe(self.nodes, addresses, pages, engine) | {"transport": self.transport}
        for number, node in enumerate(self.nodes):
            node.tell("join", cluster=cluster, node=number)
        for node in self.nodes:
            node.answer()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.all("leave")  # in order: nobody sees the others as lost
        finally:
            self.end()

    def __getitem__(self, number: int) -> BenchNode:
        return self.nodes[number]

    def all(self, do: str, *, only: Sequence[int] | None = None, **arguments: Any) -> list[dict[str, Any]]:
        """Gives the same command to all nodes (or some) at once and waits for all answers."""
        chosen = self.nodes if only is None else [self.nodes[number] for number in only]
        for node in chosen:
            node.tell(do, **arguments)
        return [node.answer() for node in chosen]

    def end(self) -> None:
        """Ends all processes."""
        for node in self.nodes:
            node.end()
        self.nodes = []
