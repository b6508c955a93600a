"""Processes that share a region and do to it what the test says, one step at a time or all at once."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any, Literal

from leviathan.dsm import Description, Region, Seat, join

SECONDS = 30
TRANSPORT: Literal["tcp", "ucx"] = "ucx" if os.environ.get("LEV_TEST_TRANSPORT") == "ucx" else "tcp"
"""What carries pages in tests; ``make test-ucx`` runs them over UCX, too."""


class Workers:
    """Node ``n`` is ``self.pipes[n]``; every request is a list of steps, every answer the list of their results."""

    def __init__(self, nodes: int, size: int, **engine: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for _ in range(nodes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        addresses = [pipe.recv() for pipe in self.pipes]
        description = Description.new(addresses, size, engine=engine, transport=TRANSPORT)
        for node, pipe in enumerate(self.pipes):
            pipe.send((description.text(), node))

    def do(self, node: int, *steps: tuple[Any, ...]) -> list[Any]:
        """Steps of one node."""
        return self.all_at_once({node: list(steps)})[node]

    def all_at_once(self, steps: dict[int, list[tuple[Any, ...]]]) -> dict[int, list[Any]]:
        """Steps of several nodes at the same time."""
        for node, mine in steps.items():
            self.pipes[node].send(mine)
        return {node: self._answer(node) for node in steps}

    def _answer(self, node: int) -> list[Any]:
        assert self.pipes[node].poll(SECONDS), f"node {node} does not answer"
        return self.pipes[node].recv()

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(SECONDS)
        assert [process.exitcode for process in self.processes] == [0] * len(self.processes)


def _serve(pipe: Connection) -> None:
    seat = Seat("127.0.0.1:0")
    pipe.send(seat.address)
    text, node = pipe.recv()
    with join(Description.model_validate_json(text), node, seat=seat) as region:
        view = memoryview(region)
        while (steps := pipe.recv()) is not None:
            pipe.send([_step(region, view, *step) for step in steps])


def _step(region: Region, view: memoryview, name: str, *args: Any) -> Any:
    match name, args:
        case "write", (offset, data):
            view[offset : offset + len(data)] = data
        case "read", (offset, length):
            return bytes(view[offset : offset + length])
        case "move", (source, target, length):
            view[target : target + length] = view[source : source + length]
        case "add", (offset, value):
            return region.add(offset, value)
        case _:
            return getattr(region, name)(*args)
    return None
