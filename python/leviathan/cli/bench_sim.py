"""``lev bench sim``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leviathan.cli.options import FiguresFile, Quiet, check_json_path
from leviathan.errors import UsageError

__all__ = ["Accesses", "Gbit", "LatencyUs", "Measured", "bench_sim", "counts", "network_costs"]

Accesses = Annotated[
    int, typer.Option("--accesses", metavar="A", min=1, max=1_000_000, help="Accesses of each node's thread.")
]
LatencyUs = Annotated[float | None, typer.Option("--latency-us", metavar="US", min=0, help="Of the network, one way.")]
Gbit = Annotated[
    float | None, typer.Option("--gbit", metavar="G", min=0.001, help="Gigabits a second of each node's link.")
]
Measured = Annotated[
    Path | None, typer.Option("--measured", metavar="FILE", help="Costs from FILE of `lev bench dsm --json`.")
]


def bench_sim(
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="N,N,…", help="Numbers of nodes, 1 to 1024; default 2, 4, … 1024.")
    ] = "",
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", metavar="NAME", help="Only this way of sharing. Repeatable.")
    ] = None,
    accesses: Accesses = 50,
    think_us: Annotated[
        float, typer.Option("--think-us", metavar="US", min=0, help="Mean time between two accesses.")
    ] = 20.0,
    hold_us: Annotated[
        float, typer.Option("--hold-us", metavar="US", min=0, help="Shortest time that a granted page stays.")
    ] = 50.0,
    latency_us: LatencyUs = None,
    gbit: Gbit = None,
    measured: Measured = None,
    pool: Annotated[bool, typer.Option("--pool", help="Pages that bounce move into shared memory.")] = False,
    json_file: FiguresFile = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the figures into FILE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Simulate the coherence protocol with up to 1,024 nodes: fault times and traffic for five ways of sharing."""
    check_json_path(json_file)
    from leviathan.bench.sim import NODES, PATTERNS, Model, bench

    if wrong := [name for name in pattern or () if name not in PATTERNS]:
        raise UsageError(f"--pattern: there is no {wrong[0]!r}; there are {', '.join(PATTERNS)}")
    model = Model(accesses, think_us, hold_us, pool, network_costs(measured, latency_us, gbit))
    many = counts(nodes) or NODES
    raise typer.Exit(bench(model, pattern or list(PATTERNS), many, json_file=json_file, svg_file=svg, quiet=quiet))


def network_costs(measured: Path | None, latency_us: float | None, gbit: float | None) -> dict[str, int]:
    """What differs from the simulator's own costs. Raises ``ConfigError``."""
    from leviathan.bench.sim import costs_from

    costs = costs_from(measured) if measured else {}
    if latency_us is not None:
        costs["latency_ns"] = round(latency_us * 1000)
    if gbit is not None:
        costs["bits_per_second"] = round(gbit * 1e9)
    return costs


def counts(text: str) -> list[int]:
    """The value of ``--nodes``. Raises ``UsageError``."""
    words = [word for word in text.split(",") if word]
    if not all(word.strip().isdecimal() and 1 <= int(word) <= 1024 for word in words):
        raise UsageError(f"--nodes: {text!r} is not a list of numbers from 1 to 1024, such as 2,16,128")
    return [int(word) for word in words]
