"""Rules that a machine must follow before QEMU sees it, each with the field, the reason and the remedy.

Most of what is wrong with a CXL topology QEMU accepts in silence, and the guest shows no memory, loses data or crashes.
``check`` gives all findings; ``enforce`` raises for errors and returns the warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from leviathan.errors import ConfigError
from leviathan.model.complete import complete
from leviathan.model.machine import Machine
from leviathan.qemu.facts import QemuFacts
from leviathan.rules import (
    arguments,
    backings,
    boot,
    buses,
    decoders,
    devices,
    emulator,
    giant,
    kernel,
    names,
    platform,
    ports,
    serials,
    windows,
)
from leviathan.rules.finding import Finding
from leviathan.rules.kernel_facts import kernel_facts
from leviathan.rules.subject import KernelFacts, Subject

__all__ = ["RULES", "Finding", "KernelFacts", "check", "enforce", "kernel_facts"]

Rule = Callable[[Subject], Iterator[Finding]]

RULES: tuple[Rule, ...] = tuple(
    getattr(module, name)
    for module in (
        giant,
        platform,
        names,
        ports,
        buses,
        serials,
        backings,
        windows,
        decoders,
        devices,
        arguments,
        boot,
        emulator,
        kernel,
    )
    for name in module.__all__
)


def check(
    machine: Machine,
    *,
    qemu: QemuFacts | None = None,
    guest_kernel: KernelFacts | None = None,
    directory: str | Path | None = None,
) -> list[Finding]:
    """Everything that is to be said about a machine, errors first, in the order of the description.

    Rules that depend on QEMU or the guest's kernel speak only if those are given. ``directory`` is where the VM keeps
    files of its own.
    """
    folder = None if directory is None else Path(directory)
    subject = Subject(machine, complete(machine, folder), qemu, guest_kernel, folder)
    findings = [finding for rule in RULES for finding in rule(subject)]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def enforce(
    machine: Machine,
    *,
    qemu: QemuFacts | None = None,
    guest_kernel: KernelFacts | None = None,
    directory: str | Path | None = None,
    source: str = "machine",
    spelled: Callable[[str], str | None] = lambda _field: None,
) -> list[Finding]:
    """The warnings about a machine. Raises ``ConfigError`` with one line for each error.

    ``spelled``: what a field is called where the machine comes from, if that has another word for it.
    """
    findings = check(machine, qemu=qemu, guest_kernel=guest_kernel, directory=directory)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError(
            "\n".join(f"{source}: {finding.told(spelled(finding.field))}" for finding in errors),
            hint="docs/reference/rules.md explains every rule",
        )
    return findings
