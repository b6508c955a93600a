"""What a giant VM (``nodes`` of 1 and more) does not do."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error
from leviathan.rules.subject import Subject

__all__ = ["giant_vm"]


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
    if machine.cxl is not None:
        yield error("giant-vm", "cxl", "CXL runs on one host only so far", "use nodes = 0")
    if machine.numa:
        problem = "the NUMA nodes of a giant VM are its nodes"
        yield error("giant-vm", "numa", problem, "leave it out, or use nodes = 0")
