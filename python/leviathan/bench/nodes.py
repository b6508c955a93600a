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
from collections.abc import Mapping, Sequence
from typing import IO, Any

from leviathan.errors import LaunchError, LeviathanError, TimeOver
from leviathan.launch.programs import program
from leviathan.vm.cluster import Identity

__all__ = ["PAGE", "BenchNode", "Team"]

PAGE = 4096
ANSWER_SECONDS = 180.0
END_SECONDS = 5.0


class BenchNode:
    """One process. Use as a context manager; leaving ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = program("lev-bench")
        try:
            self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
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
        line = self._line(time.monotonic() + ANSWER_SECONDS)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LeviathanError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Gives a command and waits for its answer."""
        self.tell(do, **arguments)
        return self.answer()

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeOver(f"{self.name} did not answer within {ANSWER_SECONDS:.0f} s")
            data = os.read(self._output.fileno(), 1 << 16)
            if not data:
                code = self._process.wait(END_SECONDS)
                raise LeviathanError(f"{self.name} ended with exit code {code} instead of an answer")
            self._buffer += data
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return bytes(line)

    def end(self) -> None:
        """Ends the process; it has no state worth waiting for."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class Team:
    """Several nodes with one coherent region. Use as a context manager; leaving takes it apart and ends them."""

    def __init__(self, count: int, pages: Sequence[tuple[int, int]], engine: Mapping[str, int] | None = None) -> None:
        """``pages``: runs of ``(pages, home node)`` in order; ``engine``: tunables that are not at their defaults."""
        self.nodes: list[BenchNode] = []
        try:
            self._start(count, pages, dict(engine or {}))
        except BaseException:
            self.end()
            raise

    def _start(self, count: int, pages: Sequence[tuple[int, int]], engine: dict[str, int]) -> None:
        for number in range(count):
            self.nodes.append(BenchNode(f"node{number}"))
        identity = Identity.new()
        members = [
            {"name": node.name, "address": answer["address"], "vcpus": []}
            for node, answer in zip(self.nodes, self.all("listen"), strict=True)
        ]
        memory, end = [], 0
        for count, home in pages:
            memory.append({"gpa": end * PAGE, "len": count * PAGE, "node": home})
            end += count
        secret = {"run_id": identity.run_id, "secret": identity.secret}
        cluster = {"schema": 1, **secret, "nodes": members, "memory": memory, "engine": engine}
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
