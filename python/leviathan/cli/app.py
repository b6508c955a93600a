"""The commands. Each imports what it needs when it runs, so that ``lev --help`` is quick and works everywhere."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from leviathan import __version__
from leviathan.cli import named
from leviathan.cli.bench_dsm import bench_dsm
from leviathan.cli.bench_guest import bench_guest
from leviathan.cli.bench_sim import bench_sim
from leviathan.cli.bench_soak import bench_kills, bench_soak
from leviathan.cli.cmdline import QEMU_WORDS, import_command, qemu_command
from leviathan.cli.cxl import app as cxl_app
from leviathan.cli.disk import app as disk_app
from leviathan.cli.images import app as images_app
from leviathan.cli.kernel import app as kernel_app
from leviathan.cli.options import (
    AddDir,
    Append,
    Cpus,
    Detach,
    Display,
    FiguresFile,
    JsonFile,
    Kernel,
    LabMachines,
    MachineFile,
    Memory,
    NodeMemory,
    Nodes,
    NoPool,
    On,
    PoolPath,
    Programs,
    Qemu,
    Quiet,
    Settings,
    Timeout,
    TraceFile,
    VmName,
    Vnc,
    check_json_path,
    machine_from,
)
from leviathan.cli.schema import schema
from leviathan.cli.trace import app as trace_app
from leviathan.errors import UsageError

__all__ = ["app"]

app = typer.Typer(
    name="lev",
    help="One virtual machine out of many machines: stock QEMU, stock Linux.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(name="bench", help="Measure.", no_args_is_help=True)
app.add_typer(bench_app)
bench_app.command("dsm")(bench_dsm)
bench_app.command("guest")(bench_guest)
bench_app.command("sim")(bench_sim)
bench_app.command("soak")(bench_soak)
bench_app.command("kills")(bench_kills)
app.add_typer(cxl_app)
app.command()(schema)
app.add_typer(disk_app)
app.add_typer(images_app)
app.add_typer(kernel_app)
app.add_typer(trace_app)
app.command("import", context_settings=QEMU_WORDS)(import_command)
app.command("qemu", context_settings=QEMU_WORDS)(qemu_command)
named.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"leviathan {__version__}")
        raise typer.Exit


@app.callback()
def lev(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """One virtual machine out of many machines: stock QEMU, stock Linux."""


@app.command()
def run(
    file: MachineFile = None,
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
        typer.Option("--exec", metavar="CMD", help="Run CMD in the guest as root and pass its exit code on."),
    ] = None,
    timeout: Timeout = None,
    qemu: Qemu = None,
    no_pool: NoPool = False,
    pool: PoolPath = None,
    settings: Settings = None,
    reboot: Annotated[
        bool, typer.Option("--reboot", help="With --exec: let the guest reboot (CMD then runs again).")
    ] = False,
    json_file: JsonFile = None,
    trace: TraceFile = None,
    quiet: Quiet = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands and the cluster file; start nothing.")
    ] = False,
    name: VmName = None,
    detach: Detach = False,
    vnc: Vnc = None,
    display: Display = None,
) -> None:
    """Boot the guest. With --exec run a command in it; without, give its console (Ctrl-] leaves).

    Exit codes: the command's own; 2 usage, 122 guest or QEMU died, 123 node lost, 124 time over, 125 could not start.
    """
    check_json_path(json_file)
    machine = machine_from(
        file,
        settings=settings,
        no_pool=no_pool,
        pool=pool,
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
        vnc=vnc,
        display=display,
    )
    if dry_run:
        from leviathan.vm.plan import print_plan

        print_plan(machine, sys.stdout, source=str(file or "command line"))
        return
    if name is not None or detach:
        from leviathan.cli.background import run_named

        if trace is not None:
            raise UsageError("--trace goes without --name and -d", hint="start it, then: lev trace record NAME")
        if reboot:
            raise UsageError("--reboot goes without --name and -d: a VM that has a name may always reboot")
        raise typer.Exit(
            run_named(machine, name, detach=detach, command=command, timeout=timeout, json_file=json_file, quiet=quiet)
        )
    from leviathan.cli.run import run_command, run_console
    from leviathan.vm.trace import check_trace

    check_trace(machine, trace)
    if command is None:
        if reboot:
            raise UsageError("--reboot goes with --exec; on the console a guest may always reboot")
        raise typer.Exit(run_console(machine, timeout=timeout, json_file=json_file, quiet=quiet, trace=trace))
    code, _ = run_command(
        machine,
        command,
        timeout=timeout,
        json_file=json_file,
        quiet=quiet,
        restart_on_reboot=reboot,
        trace=trace,
    )
    raise typer.Exit(code)


@app.command()
def demo(
    nodes: Nodes = None,
    cpus: Cpus = None,
    memory: Memory = None,
    node_memory: NodeMemory = None,
    on: On = None,
    lab_machines: LabMachines = None,
    qemu: Qemu = None,
    no_pool: NoPool = False,
    settings: Settings = None,
    timeout: Timeout = None,
    json_file: JsonFile = None,
) -> None:
    """Boot one VM over two nodes and check from inside that it is one machine. No arguments needed."""
    check_json_path(json_file)
    machine = machine_from(
        None,
        settings=settings,
        no_pool=no_pool,
        lab_machines=lab_machines,
        nodes=nodes,
        cpus=cpus,
        memory=memory,
        node_memory=node_memory,
        on=on,
        qemu=qemu,
    )
    from leviathan.cli.demo import run_demo

    raise typer.Exit(run_demo(machine, timeout=timeout, json_file=json_file))


@app.command()
def plan(
    file: MachineFile = None,
    nodes: Nodes = None,
    cpus: Cpus = None,
    memory: Memory = None,
    node_memory: NodeMemory = None,
    on: On = None,
    lab_machines: LabMachines = None,
    qemu: Qemu = None,
    no_pool: NoPool = False,
    pool: PoolPath = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show who runs which CPUs and memory, and every command, ready for a shell; start nothing."""
    machine = machine_from(
        file,
        settings=settings,
        no_pool=no_pool,
        pool=pool,
        lab_machines=lab_machines,
        nodes=nodes,
        cpus=cpus,
        memory=memory,
        node_memory=node_memory,
        on=on,
        qemu=qemu,
    )
    from leviathan.vm.plan import print_plan

    print_plan(machine, sys.stdout, as_json=as_json, source=str(file or "command line"))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def node(context: typer.Context) -> None:
    """A worker by hand: `lev-node serve` with the same arguments (see `lev node --help`)."""
    from leviathan.cli.node import exec_node

    exec_node(context.args)


@app.command()
def doctor(
    qemu: Qemu = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check everything that `lev run` needs on this machine, with the reason and remedy of each failure."""
    from leviathan.doctor import examine, print_findings

    raise typer.Exit(print_findings(examine(qemu), sys.stdout, as_json=as_json))


@bench_app.command("boot")
def bench_boot(
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Boots of each kind.")] = 5,
    cpus: Cpus = None,
    memory: Memory = None,
    on: On = None,
    qemu: Qemu = None,
    settings: Settings = None,
    json_file: FiguresFile = None,
) -> None:
    """Boot times: stock QEMU, one node, two nodes with the pool, two without. The ratios are the result."""
    check_json_path(json_file)
    machine = machine_from(None, settings=settings, nodes=2, cpus=cpus, memory=memory, on=on, qemu=qemu)
    from leviathan.bench.boot import bench

    raise typer.Exit(bench(machine, rounds, json_file))
