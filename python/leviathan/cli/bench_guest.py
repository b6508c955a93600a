"""``lev bench guest``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from leviathan.cli.options import Cpus, FiguresFile, Memory, On, Qemu, Quiet, Settings, check_json_path, machine_from

__all__ = ["bench_guest"]

FAILED = 1


def bench_guest(
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Guests of each configuration.")] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SWITCH,…", help="Only these switches of the engine, such as pool,migratory."),
    ] = None,
    workloads: Annotated[
        list[str] | None,
        typer.Option("--workloads", metavar="NAME,…", help="Of boot, compress, memory, futex, counters, redis."),
    ] = None,
    seconds: Annotated[
        int, typer.Option("--seconds", metavar="S", min=1, max=600, help="Of each stressor (memory, futex).")
    ] = 5,
    limit: Annotated[
        float, typer.Option("--limit", metavar="S", min=5, help="Seconds after which a workload has failed.")
    ] = 60.0,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=2, max=128, help="Nodes with equal shares, two at least.")
    ] = 2,
    cpus: Cpus = 2,
    memory: Memory = "512M",
    on: On = None,
    qemu: Qemu = None,
    settings: Settings = None,
    json_file: FiguresFile = None,
    quiet: Quiet = False,
) -> None:
    """The same work under stock QEMU, on two nodes, and there with each switch of the engine off.

    Boot, compression, stressors, shared counters and redis. The default run takes some 40 minutes on two CPUs; one
    round of a few, such as `--rounds 1 --only pool --workloads boot,redis`, some minutes. Programs are fetched from
    the distribution the first time. Exit code 1 if something failed; the rest is measured all the same.
    """
    check_json_path(json_file)
    from leviathan.bench.figures import load
    from leviathan.bench.files import write_json
    from leviathan.bench.guest import GuestBench, Options, choose, configurations
    from leviathan.bench.guest_report import figure_table, guest_json, switch_table
    from leviathan.bench.guest_work import WORKLOADS
    from leviathan.cli.tables import print_table
    from leviathan.images.workloads import programs
    from leviathan.vm.progress import Progress
    from leviathan.vm.signals import stop_signals

    names = choose(workloads, [work.name for work in WORKLOADS], "--workloads")
    chosen = [work for work in WORKLOADS if work.name in names]
    fields: dict[str, Any] = {"nodes": nodes, "cpus": cpus, "memory": memory, "on": on, "qemu": qemu}
    # Wrong options are found before anything is fetched.
    configurations(machine_from(None, settings=settings, **fields), only)
    progress = Progress() if quiet else Progress.on_stderr()
    found = programs(progress.note) if any(work.command for work in chosen) else []
    machine = machine_from(None, settings=settings, **fields, programs=found)
    bench = GuestBench(configurations(machine, only), chosen, Options(rounds, seconds, limit), progress)
    before = load()
    with stop_signals():
        bench.run()
    for work in chosen:
        for figure in work.figures:
            print_table(figure_table(figure, work.name, bench.kinds), sys.stdout)
            print()
    print_table(switch_table(bench.kinds), sys.stdout)
    for kind in bench.kinds:
        for number, name, reason in kind.failed_work():
            print(f"failure: {kind.title}, {name}, round {number}: {reason}", file=sys.stderr)
    if json_file is not None:
        write_json(json_file, guest_json(bench, {"before": before, "after": load()}))
    raise typer.Exit(FAILED if bench.failed else 0)
