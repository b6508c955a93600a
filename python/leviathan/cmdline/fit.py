"""A command line's wishes brought to what this machine has: its QEMU, its accelerator."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

from leviathan.cmdline.notes import Notes
from leviathan.model.machine import Machine

__all__ = ["fit_host"]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def fit_host(machine: Machine, say: Callable[[str], None]) -> Machine:
    """A plain machine as this host can run it; each change is said. Raises ``StartError`` without any QEMU."""
    notes = Notes()
    machine = _with_kvm_or_not(_with_qemu(machine, notes), notes)
    for line in notes.lines():
        say(line)
    return machine


def _with_qemu(machine: Machine, notes: Notes) -> Machine:
    """A QEMU that is not installed, but unpacked by `lev images`."""
    if "/" in machine.qemu or shutil.which(machine.qemu) is not None:
        return machine
    from leviathan.images.suite import Unpacked, listed

    def version(one: Unpacked) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", one.version)]

    there = [one for one in listed() if (one.kind, one.architecture) == ("qemu", ARCHITECTURES[machine.arch])]
    if not there:
        return machine
    newest = max(there, key=version)
    notes.changed(machine.qemu, "it is not on PATH", f"{newest.path} (QEMU {newest.version} of `lev images`)")
    return machine.model_copy(update={"qemu": str(newest.path)})


def _with_kvm_or_not(machine: Machine, notes: Notes) -> Machine:
    """TCG where KVM is asked for and runs no such guests: slower."""
    if machine.accel == "tcg" or (machine.accel == "auto" and machine.cpu.model != "host"):
        return machine
    from leviathan.qemu.facts import facts_for

    why = facts_for(machine).kvm
    if why is None:
        return machine
    changes: dict[str, object] = {"accel": "auto"}
    if machine.accel == "kvm":
        notes.changed("KVM", f"it runs no such guest here ({why})", "TCG, which is slower")
    if machine.cpu.model == "host":
        changes["cpu"] = machine.cpu.model_copy(update={"model": "max"})
        notes.changed("-cpu host", "TCG knows no host's CPU", "-cpu max")
    return machine.model_copy(update=changes)
