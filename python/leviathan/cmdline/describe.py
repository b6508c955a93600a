"""From a command line to a machine description: brings it up to date, reads it, keeps what it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leviathan.cmdline.display import read_display
from leviathan.cmdline.draft import Draft
from leviathan.cmdline.giant import Part, read_part
from leviathan.cmdline.modern import modernize
from leviathan.cmdline.network import read_networks
from leviathan.cmdline.notes import Notes
from leviathan.cmdline.options import CommandLine, parse_words
from leviathan.cmdline.platform import read_boot, read_cpu, read_machine, read_memory, read_numa, read_smp
from leviathan.cmdline.storage import read_disks
from leviathan.cmdline.topology import read_cxl
from leviathan.errors import UsageError
from leviathan.model import Machine, make_machine

__all__ = ["Imported", "describe", "describe_line"]

ARCHITECTURES = ("x86_64", "aarch64")
PLAIN_PROGRAMS = ("qemu-system-x86_64", "qemu-system-aarch64", "")


@dataclass(slots=True)
class Imported:
    """A command line as a machine."""

    machine: Machine
    data: dict[str, Any]
    """The fields that it gives, in the order in which they are written."""
    notes: Notes
    part: Part | None = None
    """For a GiantVM command: which node of the machine it is."""


def describe(words: Sequence[str], *, screen: bool = True, source: str = "command line") -> Imported:
    """The machine that a QEMU command describes. Raises ``UsageError`` or ``ConfigError``.

    ``screen``: this machine has a screen for QEMU's default window.
    """
    return describe_line(parse_words(words), screen=screen, source=source)


def describe_line(line: CommandLine, *, screen: bool = True, source: str = "command line") -> Imported:
    """As ``describe``, for a command line that is already cut into options."""
    draft = Draft(line)
    for remark in line.notes:
        draft.notes.warn("", remark)
    for name in ("help", "version"):
        if line.has(name):
            raise UsageError(f"-{name} asks QEMU something and describes no machine")
    if draft.arch not in ARCHITECTURES:
        raise UsageError(f"{line.program}: Leviathan describes x86_64 and aarch64 machines", hint="run it without lev")
    modernize(line, draft.notes)
    data = draft.data
    data["schema"] = 1
    if line.program and line.program not in PLAIN_PROGRAMS:
        data["qemu"] = line.program
    data["arch"] = draft.arch
    read_machine(draft)
    read_cpu(draft)
    read_smp(draft)
    read_memory(draft)
    part = _giant(draft)
    read_numa(draft)
    read_boot(draft)
    read_cxl(draft)
    read_disks(draft)
    read_networks(draft)
    read_display(draft, screen=screen)
    if part is not None:
        _giant_devices(draft)
    _the_rest(draft)
    return Imported(make_machine(data, source=source), data, draft.notes, part)


def _giant(draft: Draft) -> Part | None:
    """GiantVM's own options; a plain command is a machine on one host."""
    for name in ("shm-path", "node-list"):
        if draft.line.has(name):
            draft.last(name)
            draft.notes.changed(f"-{name}", "GiantVM's; nodes find each other by themselves", "left out")
    values = draft.line.values("local-cpu")
    if not values:
        draft.data["nodes"] = 0
        return None
    if len(values) > 1:
        raise UsageError(
            "-local-cpu is given twice", hint="a command is one node: give the other to the other terminal"
        )
    part = read_part(values[0], draft.data["cpus"] if draft.line.has("smp") else None)
    draft.last("local-cpu")
    if draft.arch != "x86_64":
        raise UsageError("-local-cpu: giant VMs are x86_64 machines")
    draft.data |= {"nodes": part.nodes, "cpus": part.total_cpus}
    if draft.data["machine_type"] != "q35":
        draft.notes.changed(f"machine {draft.data['machine_type']}", "giant VMs have one chipset", "q35")
        draft.data["machine_type"] = "q35"
    if draft.data.get("accel") == "tcg":
        draft.notes.changed("-accel tcg", "a giant VM's CPUs run under KVM", "kvm, in lab machines where there is none")
    draft.data.pop("accel", None)
    return part


def _giant_devices(draft: Draft) -> None:
    """What a giant VM has in its own way, or not at all."""
    data = draft.data
    display = data.get("display", {})
    if display.get("window", "none") != "none":
        place = display.setdefault("vnc", "127.0.0.1:0")
        draft.notes.changed(f"-display {display['window']}", "a giant VM's screen is shown by VNC", f"-vnc {place}")
        del display["window"]
    for field, option in (("serial", "-serial"), ("monitor", "-monitor"), ("qmp", "-qmp")):
        for value in data.pop(field, []):
            if value not in ("stdio", "mon:stdio", "null"):
                draft.notes.warn(f"{option} {value}", "a giant VM's console is the head's terminal; left out")
    if data.pop("cpu", {"model": "host"}) != {"model": "host"}:
        draft.notes.changed("-cpu and the parts of -smp", "a giant VM's CPUs are those of its hosts", "-cpu host")
    for field, option in (("machine_options", "-machine"), ("memory_max", "-m maxmem="), ("memory_slots", "-m slots=")):
        if (value := data.pop(field, None)) is not None:
            shown = ",".join(value) if isinstance(value, dict) else ""
            draft.notes.warn(f"{option} {shown}".strip(), "a giant VM has no such thing; left out")


def _the_rest(draft: Draft) -> None:
    draft.flag("nodefaults")
    draft.flag("no-user-config")
    if draft.flag("daemonize"):
        draft.notes.changed("-daemonize", "Leviathan watches QEMU", "`lev run -d`: a machine in the background")
    if draft.line.has("S"):
        draft.notes.warn("-S", "the guest waits until a monitor says `cont`")
    for option in draft.rest_options():
        draft.notes.kept(str(option), "passed to QEMU as it is")
    rest = draft.rest()
    if rest:
        draft.data["qemu_args"] = rest
