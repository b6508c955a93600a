"""A region between processes of this machine: started, fed and collected in one call."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from leviathan._native import Region, Seat
from leviathan.dsm.description import Description
from leviathan.dsm.join import join
from leviathan.errors import LeviathanError, NodeLost, TimeOver

__all__ = ["run_local", "run_local_over"]

P = ParamSpec("P")
T = TypeVar("T")

START_SECONDS = 60.0
END_SECONDS = 5.0


@dataclass(slots=True)
class _Failure:
    """What ended a process: the exception if it can travel, and its traceback as text."""

    error: BaseException | None
    text: str


def run_local(
    function: Callable[Concatenate[Region, P], T],
    nodes: int,
    size: int | str,
    *args: P.args,
    **options: P.kwargs,
) -> list[T]:
    """Runs ``function(region, …)`` in ``nodes`` new processes that share ``size`` bytes; the results, by node.

    ``function``, its arguments and results travel by pickle, so it must be a module's function. The region is left in
    order when all have returned. If one raises, the others are ended and its exception is raised here, with its
    traceback as a note. Raises ``UsageError``, ``StartError`` as ``join`` does.
    """
    return run_local_over("tcp", function, nodes, size, *args, **options)


def run_local_over(
    transport: Literal["tcp", "ucx"],
    function: Callable[Concatenate[Region, P], T],
    nodes: int,
    size: int | str,
    *args: P.args,
    **options: P.kwargs,
) -> list[T]:
    """``run_local`` with a choice of what carries the pages; see ``Description.new``."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for node in range(nodes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_node, args=(theirs, node, function, args, options), name=f"node{node}", daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        addresses = [_receive(pipe, node) for node, pipe in enumerate(pipes)]
        text = Description.new(addresses, size, transport=transport).text()
        for pipe in pipes:
            pipe.send(text)
        results = _collect(pipes)
        for process in processes:
            process.join(END_SECONDS)
        return results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join(END_SECONDS)


def _receive(pipe: Connection, node: int) -> Any:
    if not pipe.poll(START_SECONDS):
        raise TimeOver(f"node{node} did not start within {START_SECONDS:.0f} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise NodeLost(f"node{node} ended before it had a result") from None
    if isinstance(answer, _Failure):
        raise _raised(answer, node)
    return answer


def _collect(pipes: Sequence[Connection]) -> list[Any]:
    """Results by node. The first failure that is not the loss of another node explains all."""
    results: dict[int, Any] = {}
    losses: list[BaseException] = []
    waiting = dict(enumerate(pipes))
    while waiting:
        for ready in wait(list(waiting.values())):
            node = next(node for node, pipe in waiting.items() if pipe is ready)
            del waiting[node]
            try:
                (results[node],) = _receive(pipes[node], node)
            except NodeLost as error:
                losses.append(error)
    if losses:
        raise losses[0]
    return [results[node] for node in range(len(pipes))]


def _raised(failure: _Failure, node: int) -> BaseException:
    error = failure.error or LeviathanError(f"node{node} failed")
    error.add_note(f"in node{node}:\n{failure.text.rstrip()}")
    return error


def _node(
    pipe: Connection,
    node: int,
    function: Callable[..., Any],
    args: Sequence[Any],
    options: Mapping[str, Any],
) -> None:
    """What a process does."""
    try:
        seat = Seat("127.0.0.1:0")
        pipe.send(seat.address)
        with join(Description.model_validate_json(pipe.recv()), node, seat=seat) as region:
            result = function(region, *args, **options)
        pipe.send((result,))
    except EOFError:
        return  # whoever started us has gone
    except BaseException as error:  # noqa: BLE001 (all of it is for the one who started us)
        text = traceback.format_exc()
        try:
            pipe.send(_Failure(error, text))
        except Exception:  # noqa: BLE001 (an exception that cannot be pickled)
            pipe.send(_Failure(None, text))
