"""``lev trace``: record what happens to guest memory, show it, replay it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from leviathan.cli.bench_sim import Accesses, Gbit, LatencyUs, Measured, counts, network_costs
from leviathan.cli.options import (
    AddDir,
    Append,
    Cpus,
    FiguresFile,
    JsonFile,
    Kernel,
    LabMachines,
    Memory,
    NodeMemory,
    Nodes,
    NoPool,
    On,
    Programs,
    Qemu,
    Quiet,
    Settings,
    Timeout,
    check_json_path,
    machine_from,
)
from leviathan.errors import UsageError

__all__ = ["app"]

app = typer.Typer(name="trace", help="Record what happens to guest memory, show it, replay it.", no_args_is_help=True)
TraceFile = Annotated[Path, typer.Argument(metavar="FILE", help="A trace, as `lev trace record` writes it.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the trace goes.")]


@app.command()
def record(
    output: Output,
    what: Annotated[
        str | None, typer.Argument(metavar="[MACHINE.toml|NAME]", help="A machine file, or a VM that runs already.")
    ] = None,
    nodes: Nodes = None,
    cpus: Cpus = None,
    memory: Memory = None,
    node_memory: NodeMemory = None,
    on: On = None,
    lab_machines: LabMachines = None,
    kernel: Kernel = None,
    append: Append = None,
    add: AddDir = None,
    program: Programs = None,
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="CMD", help="Run CMD in a new guest as root; the trace is of its life."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", metavar="S", min=0.1, help="Of a VM that runs: for so long; default 10."),
    ] = None,
    timeout: Timeout = None,
    qemu: Qemu = None,
    no_pool: NoPool = False,
    settings: Settings = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Record the trace of a new guest from its start to its end, or of a VM that runs for some seconds."""
    if what is not None and command is None and not _is_file(what):
        from leviathan.named.client import Client

        Client(what).trace(output, seconds or 10.0)
        return
    if command is None:
        raise UsageError("what is to be recorded?", hint="--exec CMD, or the name of a VM that runs (`lev list`)")
    if seconds is not None:
        raise UsageError("--seconds goes with a VM that runs already; with --exec the trace is of the guest's life")
    check_json_path(json_file)
    machine = machine_from(
        Path(what) if what is not None else None,
        settings=settings,
        no_pool=no_pool,
        lab_machines=lab_machines,
        nodes=nodes,
        cpus=cpus,
        memory=memory,
        node_memory=node_memory,
        on=on,
        kernel=kernel,
        append=append,
        add=add,
        programs=program,
        qemu=qemu,
    )
    from leviathan.cli.run import run_command
    from leviathan.vm.trace import check_trace

    check_trace(machine, output)
    code, _ = run_command(machine, command, timeout=timeout, json_file=json_file, quiet=quiet, trace=output)
    raise typer.Exit(code)


@app.command()
def show(
    file: TraceFile,
    hot: Annotated[int, typer.Option("--hot", metavar="N", min=0, help="Name so many of the hottest pages.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what is in a trace: events by node, ways of sharing, the hottest pages."""
    from leviathan.trace.show import show as print_trace

    print_trace(file, sys.stdout, hottest=hot, as_json=as_json)


@app.command()
def replay(
    file: TraceFile,
    nodes: Annotated[
        str,
        typer.Option(
            "--nodes", metavar="N,N,…", help="Also its program on so many nodes, 1 to 1024; `all`: 2, 4, … 1024."
        ),
    ] = "",
    sharing: Annotated[
        str,
        typer.Option(
            "--sharing", metavar="grows|stays", help="On more nodes, a page is used by more of them, or by as many."
        ),
    ] = "grows",
    accesses: Accesses = 50,
    speed: Annotated[
        float,
        typer.Option("--speed", metavar="X", min=1e-6, help="The program itself runs X times as fast as recorded."),
    ] = 1.0,
    hold_us: Annotated[
        float | None, typer.Option("--hold-us", metavar="US", min=0, help="Shortest time that a granted page stays.")
    ] = None,
    latency_us: LatencyUs = None,
    gbit: Gbit = None,
    measured: Measured = None,
    pool: Annotated[
        bool | None, typer.Option("--pool/--no-pool", help="With or without a pool; left out: as recorded.")
    ] = None,
    json_file: FiguresFile = None,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the figures into FILE.")] = None,
    quiet: Quiet = False,
) -> None:
    """Drive the simulator with a trace: the same accesses in the same order; with --nodes, on more nodes."""
    check_json_path(json_file)
    if sharing not in ("grows", "stays"):
        raise UsageError(f"--sharing: {sharing!r} is neither grows nor stays")
    from leviathan.bench.replay import Options
    from leviathan.bench.replay import replay as run
    from leviathan.bench.sim import NODES

    many = NODES if nodes == "all" else counts(nodes)
    if svg is not None and not many:
        raise UsageError("--svg draws figures against numbers of nodes", hint="--nodes all")
    options = Options(accesses, sharing, hold_us, pool, speed, network_costs(measured, latency_us, gbit))
    raise typer.Exit(run(file, options, many, json_file=json_file, svg_file=svg, quiet=quiet))


@app.command()
def join(
    parts: Annotated[list[Path], typer.Argument(metavar="FILE…", help="The traces of a run's nodes.")],
    output: Output,
) -> None:
    """Join the traces of nodes that were started by hand (`lev node --trace`) into one."""
    from leviathan import _native
    from leviathan.trace.read import read_bytes
    from leviathan.vm.trace import save

    try:
        data = _native.merge_traces([read_bytes(part) for part in parts])
    except ValueError as error:
        raise UsageError(f"{', '.join(map(str, parts))}: {error} (counted from 0)") from error
    save(output, data)


def _is_file(what: str) -> bool:
    return what.endswith(".toml") or Path(what).is_file()
