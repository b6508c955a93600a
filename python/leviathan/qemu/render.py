"""A plain machine's QEMU command line, for the QEMU at hand.

``render(machine, facts, directory)`` gives the whole command; nothing is started and no file is touched. It does not
check: `leviathan.rules.enforce` comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan.model.complete import complete
from leviathan.model.machine import Machine
from leviathan.model.platform import Cpu
from leviathan.model.sizes import format_size
from leviathan.qemu.cxl import cxl_arguments
from leviathan.qemu.devices import device_arguments
from leviathan.qemu.facts import QemuFacts
from leviathan.qemu.words import escape, join, option

__all__ = ["Launch", "render"]


@dataclass(frozen=True, slots=True)
class Launch:
    """What whoever starts the machine decides, beyond the description."""

    kernel: str | None = None
    """In place of the description's, which may leave it out."""
    initrd: str | None = None
    append: str | None = None
    """The whole kernel command line."""
    arguments: Sequence[str] = ()
    """Ports, monitors and consoles of the launcher's own."""
    console: bool = False
    """``arguments`` holds a serial port, so that none is added where the description has none."""
    paused: bool = False
    """No instruction runs before the monitor says so."""


def render(machine: Machine, facts: QemuFacts, directory: str | Path, launch: Launch | None = None) -> list[str]:
    """The command of a machine with ``nodes = 0``, its program first.

    ``directory`` is where the VM keeps files of its own; it is only named here.
    """
    launch = launch or Launch()
    machine = complete(machine, directory)
    argv = [facts.binary.path, "-name", escape(machine.name)]
    if not machine.default_devices:
        argv += ["-nodefaults", "-no-user-config"]
    argv += _platform(machine, facts)
    argv += _numa(machine)
    argv += _boot(machine, facts, launch)
    if machine.cxl is not None:
        argv += cxl_arguments(machine.cxl, facts)
    argv += device_arguments(machine)
    argv += _consoles(machine, launch)
    if machine.reboot == "cold":
        argv.append("-no-reboot")
    if launch.paused:
        argv.append("-S")
    return [*argv, *launch.arguments, *machine.qemu_args]


def _platform(machine: Machine, facts: QemuFacts) -> list[str]:
    accel = facts.accel(machine)
    properties: dict[str, object | None] = {
        "gic-version": machine.gic_version if machine.machine_type == "virt" else None,
        "cxl": True if machine.cxl is not None else None,
        "acpi": None if machine.acpi else False,
    }
    argv = option("-machine", machine.machine_type, properties, machine.machine_options)
    argv += ["-accel", accel, "-cpu", _cpu(machine.cpu, accel)]
    smp: dict[str, object | None] = {name: getattr(machine.cpu, name) for name in ("sockets", "cores", "threads")}
    argv += option("-smp", str(machine.cpus), smp)
    sizes: dict[str, object | None] = {
        "maxmem": None if machine.memory_max is None else format_size(machine.memory_max),
        "slots": machine.memory_slots or None,
    }
    return argv + option("-m", format_size(machine.memory), sizes)


def _cpu(cpu: Cpu, accel: str) -> str:
    return join(cpu.model or ("host" if accel == "kvm" else "max"), {}, cpu.features)


def _numa(machine: Machine) -> list[str]:
    argv: list[str] = []
    for number, node in enumerate(machine.numa):
        words = [f"node,nodeid={number}", *(f"cpus={part}" for part in node.cpus.split(",") if part)]
        if node.memory is not None:
            argv += ["-object", f"memory-backend-ram,id=numa{number},size={format_size(node.memory)}"]
            words.append(f"memdev=numa{number}")
        argv += ["-numa", ",".join(words)]
    for source, node in enumerate(machine.numa):
        for target, distance in enumerate(node.distances):
            if source != target:
                argv += ["-numa", f"dist,src={source},dst={target},val={distance}"]
    return argv


def _boot(machine: Machine, facts: QemuFacts, launch: Launch) -> list[str]:
    argv: list[str] = []
    firmware = machine.firmware
    # Without UEFI the virt machine has no ACPI tables, hence no CXL.
    if firmware is None and machine.arch == "aarch64" and (machine.cxl is not None or machine.boot == "firmware"):
        firmware = facts.firmware
    if firmware is not None and machine.firmware_variables is not None:
        flash = {"if": "pflash", "unit": 0, "format": "raw", "readonly": True, "file": firmware}
        argv += option("-drive", "", flash)
        argv += option("-drive", "", {"if": "pflash", "unit": 1, "format": "raw", "file": machine.firmware_variables})
    elif firmware is not None:
        argv += ["-bios", str(firmware)]
    if machine.boot == "kernel":
        kernel, initrd = launch.kernel or machine.kernel, launch.initrd or machine.initrd
        if kernel is not None:
            argv += ["-kernel", str(kernel)]
            if initrd is not None:
                argv += ["-initrd", str(initrd)]
            argv += ["-append", machine.append if launch.append is None else launch.append]
    return argv


def _consoles(machine: Machine, launch: Launch) -> list[str]:
    serial = machine.serial
    if serial is None:
        serial = [] if launch.console or machine.default_devices else ["mon:stdio"]
    elif not serial:
        serial = ["none"]
    argv: list[str] = []
    for flag, values in (("-serial", serial), ("-monitor", machine.monitor), ("-qmp", machine.qmp)):
        for value in values:
            argv += [flag, value]
    return argv
