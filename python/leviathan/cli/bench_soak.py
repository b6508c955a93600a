"""``lev bench soak`` and ``lev bench kills``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from leviathan.cli.options import Quiet, check_json_path
from leviathan.errors import UsageError

__all__ = ["bench_kills", "bench_soak"]

FAILED = 1
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="S", min=0, help="Repeats what is random; default: a new one, which is printed."),
]


def _seed(given: int | None) -> int:
    return secrets.randbits(32) if given is None else given


def bench_soak(
    seconds: Annotated[float, typer.Option("--seconds", metavar="T", min=5, help="How long in all.")] = 1800.0,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=2, max=16, help="Processes.")] = 4,
    threads: Annotated[int, typer.Option("--threads", metavar="K", min=1, max=64, help="Threads of each.")] = 3,
    memory: Annotated[
        str, typer.Option("--memory", metavar="M", help="Size of the region: a multiple of 2M, at least 2M a node.")
    ] = "32M",
    region_seconds: Annotated[
        float,
        typer.Option("--region-seconds", metavar="T", min=5, help="A new region with other settings after so long."),
    ] = 300.0,
    no_pauses: Annotated[bool, typer.Option("--no-pauses", help="Do not stop nodes now and then.")] = False,
    seed: Seed = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all of it into FILE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Many minutes of reads, writes, evictions, promotions and pauses, every word checked. Boots nothing."""
    check_json_path(json_file)
    from leviathan.bench.files import write_json
    from leviathan.bench.soak import GROUP, Options, Soak
    from leviathan.bench.soak_report import growth_table, node_table, soak_json, summary
    from leviathan.cli.tables import print_table
    from leviathan.model.sizes import parse_size
    from leviathan.vm.progress import Progress
    from leviathan.vm.signals import stop_signals

    try:
        size = parse_size(memory)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error
    if size % GROUP or size < GROUP * nodes:
        raise UsageError(f"--memory {memory}: a multiple of 2M, at least {2 * nodes}M for {nodes} nodes")
    options = Options(seconds, nodes, size, threads, region_seconds, _seed(seed), not no_pauses)
    progress = Progress() if quiet else Progress.on_stderr()
    progress.note(f"seed {options.seed}")
    soak = Soak(options, progress)
    with stop_signals():
        soak.run()
    print_table(node_table(soak), sys.stdout)
    print_table(growth_table(soak), sys.stdout)
    print(summary(soak))
    if json_file is not None:
        write_json(json_file, soak_json(soak))
    for failure in soak.failures:
        print(f"failure: {failure}", file=sys.stderr)
    raise typer.Exit(FAILED if soak.failures else 0)


def bench_kills(
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="N", min=1, help="Regions in which somebody is killed.")
    ] = 500,
    jobs: Annotated[int, typer.Option("--jobs", metavar="J", min=1, max=64, help="Regions at the same time.")] = 2,
    seed: Seed = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all of it into FILE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Peers killed at random: whether every survivor names them in time, and leaves nothing behind. Boots nothing."""
    check_json_path(json_file)
    from leviathan.bench.files import write_json
    from leviathan.bench.kills import Kills
    from leviathan.bench.kills_report import kills_json, kills_table
    from leviathan.cli.tables import print_table
    from leviathan.vm.progress import Progress
    from leviathan.vm.signals import stop_signals

    number = _seed(seed)
    progress = Progress() if quiet else Progress.on_stderr()
    progress.note(f"seed {number}")
    kills = Kills(rounds, number, jobs)
    with stop_signals(), progress.step(f"{rounds} rounds"):
        kills.run(progress.tick)
    print_table(kills_table(kills.rounds), sys.stdout)
    if json_file is not None:
        write_json(json_file, kills_json(kills.rounds, number))
    failed = [each for each in kills.rounds if each.failures]
    print(f"seed {number}: {len(kills.rounds)} rounds, {len(failed)} failed")
    for each in failed:
        for failure in each.failures:
            print(f"failure: {each.name}: {failure}", file=sys.stderr)
    raise typer.Exit(FAILED if failed else 0)
