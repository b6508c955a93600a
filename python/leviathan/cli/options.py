"""Options that several commands share, and the machine that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leviathan.errors import UsageError
from leviathan.model import Machine, load_machine, parse_settings

__all__ = [
    "AddDir",
    "Append",
    "Cpus",
    "Detach",
    "Display",
    "FiguresFile",
    "JsonFile",
    "Kernel",
    "LabMachines",
    "MachineFile",
    "Memory",
    "NoPool",
    "NodeMemory",
    "Nodes",
    "On",
    "Programs",
    "Qemu",
    "Quiet",
    "Settings",
    "Timeout",
    "TraceFile",
    "VmName",
    "Vnc",
    "check_json_path",
    "machine_from",
]

MachineFile = Annotated[
    Path | None, typer.Argument(metavar="[MACHINE.toml]", help="Machine file; without one, 4 CPUs and 1G over 2 nodes.")
]
Nodes = Annotated[
    int | None,
    typer.Option("--nodes", metavar="N", help="Nodes with equal shares; 0: stock QEMU and KVM, as a baseline."),
]
Cpus = Annotated[int | None, typer.Option("--cpus", metavar="C", help="CPUs of the guest.")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="M", help="Memory of the guest, such as 512M or 2G.")]
NodeMemory = Annotated[
    str | None,
    typer.Option("--node-memory", metavar="M", help="Most guest memory that each node keeps, such as 1280M."),
]
On = Annotated[
    str | None,
    typer.Option("--on", metavar="auto|native|lab", help="Where nodes run: here, or in lab machines (no KVM needed)."),
]
LabMachines = Annotated[
    int | None, typer.Option("--lab-machines", metavar="K", help="Lab machines that the nodes are spread over.")
]
Kernel = Annotated[Path | None, typer.Option("--kernel", metavar="FILE", help="Kernel of the guest (bzImage).")]
Append = Annotated[
    str | None, typer.Option("--append", metavar="WORDS", help="More words for the kernel's command line.")
]
AddDir = Annotated[
    Path | None, typer.Option("--add", metavar="DIR", help="Put the files of DIR into the guest's root.")
]
Programs = Annotated[
    list[Path] | None,
    typer.Option(
        "--program", metavar="FILE", help="Bring a program of this system along, with its libraries. Repeatable."
    ),
]
Qemu = Annotated[str | None, typer.Option("--qemu", metavar="PATH", help="The QEMU to run, as its packager made it.")]
NoPool = Annotated[bool, typer.Option("--no-pool", help="No shared memory for hot pages: the protocol alone.")]
PoolPath = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="PATH",
        help="Hot pages live in this file or DAX device, which all nodes' machines share, such as /dev/dax0.0.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any field of a machine file, such as engine.hold_us=100. Repeatable."
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", help="Give up after so many seconds.", min=0.1)
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write what happened, per node, into FILE.")
]
FiguresFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures into FILE.")]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Record what happens to every page of guest memory into FILE."),
]
VmName = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name of the VM, for `lev list`, `lev exec`, `lev stop` and others."),
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Leave it running in the background; print its name when it is up.")
]
Vnc = Annotated[
    str | None, typer.Option("--vnc", metavar="PLACE", help="Show the guest's screen by VNC, such as :0 (port 5900).")
]
Display = Annotated[
    str | None,
    typer.Option(
        "--display",
        metavar="WINDOW",
        help="A window with the guest's screen: gtk, sdl, curses…; `card`: a graphics card, for `lev screenshot`.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def machine_from(
    file: Path | None,
    *,
    settings: list[str] | None = None,
    no_pool: bool = False,
    pool: str | None = None,
    lab_machines: int | None = None,
    vnc: str | None = None,
    display: str | None = None,
    **fields: Any,
) -> Machine:
    """The machine that a file and options describe. Raises ``ConfigError`` or ``UsageError``."""
    changes: dict[str, Any] = parse_settings(settings or [])
    changes |= {name: value for name, value in fields.items() if value not in (None, [])}
    if no_pool:
        if pool is not None:
            raise UsageError("--pool and --no-pool exclude each other")
        _table(changes, "pool")["enabled"] = False
    if pool is not None:
        _table(changes, "pool")["path"] = pool
    if lab_machines is not None:
        _table(changes, "lab")["machines"] = lab_machines
    if vnc is not None:
        _table(changes, "display")["vnc"] = vnc
    if display == "card":
        _table(changes, "display").setdefault("adapter", "std")
    elif display is not None:
        _table(changes, "display")["window"] = display
    return load_machine(file, changes)


def check_json_path(path: Path | None) -> None:
    """Finds out before the work, not after it, that the result cannot be written."""
    if path is not None and not path.resolve().parent.is_dir():
        raise UsageError(f"--json: there is no folder {path.resolve().parent}")
    if path is not None and path.is_dir():
        raise UsageError(f"--json: {path} is a folder")


def _table(changes: dict[str, Any], name: str) -> dict[str, Any]:
    table = changes.setdefault(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"--set {name}=…: {name} has fields of its own")
    return table
