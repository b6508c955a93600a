"""What a giant VM (``nodes`` of 1 and more) does not do."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["giant_memory", "giant_vm"]


def giant_vm(subject: Subject) -> Iterator[Finding]:
    """Its nodes run under KVM, on q35, and its NUMA nodes are the nodes."""
    machine = subject.given
    if machine.stock:
        return
    if machine.arch != "x86_64":
        yield error("giant-vm", "arch", f"{machine.arch} runs on one host only", "use nodes = 0")
    elif machine.machine_type != "q35":
        yield error(
            "giant-vm", "machine_type", f"{machine.machine_type} runs on one host only", "use 'q35' or nodes = 0"
        )
    if machine.accel == "tcg":
        problem = "the nodes of a giant VM run under KVM (in lab machines where this one has none)"
        yield error("giant-vm", "accel", problem, "leave it out, or use nodes = 0")
    if machine.numa:
        problem = "the NUMA nodes of a giant VM are its nodes"
        yield error("giant-vm", "numa", problem, "leave it out, or use nodes = 0")


def giant_memory(subject: Subject) -> Iterator[Finding]:
    """CXL memory over nodes: RAM that is kept coherent, or an exit to the head's QEMU for each access."""
    machine, qemu = subject.given, subject.qemu
    if machine.stock or machine.cxl is None:
        return
    for path, _, _, backing in subject.backings():
        if backing.kind == "file" and not backing.shared:
            problem = "a private copy of a file cannot be kept coherent over nodes"
            yield error("giant-memory", f"{path}.shared", problem, "leave it out: writes then reach the file")
    if qemu is None or not qemu.cxl(machine.machine_type) or not subject.cxl.memory:
        return
    if subject.interleaved:
        field, why, better = "cxl.windows", "an interleaved window is emulated", "windows with one target"
    elif not qemu.windows_as_ram:
        version = f"QEMU {qemu.binary.version_text}"
        field, why, better = "cxl", f"{version} emulates CXL memory", "QEMU 11.1 or newer, which maps it as RAM"
    else:
        return
    problem = (
        f"{why}: every access of 8 bytes is an exit to the head's QEMU, from a worker's CPU over the network; "
        "in the lab 1 MiB takes 8 s from a CPU of the head, 3 minutes from one of a worker"
    )
    yield warning("giant-memory", field, problem, f"use it for data only, not as system RAM, or {better}")
