"""What the QEMU at hand can do, asked from itself: machines, properties of devices, commands of its monitor.

One QEMU without a machine is started and answers over QMP; nothing is guessed from the version alone. Exceptions are
named: how CXL windows are mapped and how many decoders there are cannot be asked.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from leviathan.errors import StartError
from leviathan.model.machine import Machine
from leviathan.qemu.binary import QemuBinary, find_uefi, probe_binary

__all__ = ["QemuFacts", "facts_for", "probe_facts"]

PROBE_SECONDS = 60
DEVICES = ("cxl-type3", "pxb-cxl", "cxl-rp", "cxl-upstream", "cxl-downstream", "virtio-scsi-pci", "nvme", "VGA")
MACHINES = {"x86_64": ("q35", "pc"), "aarch64": ("virt",)}
FOUR_DECODERS = (8, 2)
"""From this version on, bridges, switches and devices have four decoders (measured: 7.2 has one, 10.0 four)."""
RAM_WINDOWS = (11, 1)
"""From this version on, windows that are not interleaved are mapped as RAM (measured: 11.1 does, 10.2 does not)."""


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """One QEMU program and what it offers."""

    binary: QemuBinary
    arch: str
    machines: Mapping[str, frozenset[str]]
    """Properties of each machine type that we describe, by its alias."""
    devices: Mapping[str, frozenset[str]]
    """Properties of the devices asked for; one that is missing here, QEMU lacks."""
    commands: frozenset[str]
    """Commands of the QMP monitor."""
    cpu_models: frozenset[str]
    accelerators: frozenset[str]
    """``kvm`` and ``tcg``, as far as they are built in."""
    asked: frozenset[str] = frozenset(DEVICES)
    """Devices that were asked for."""
    kvm: str | None = "not asked"
    """Why KVM does not run guests of this architecture here; ``None`` if it does."""
    firmware: Path | None = field(default=None)
    """The distribution's UEFI for the architecture."""

    def cxl(self, machine_type: str) -> bool:
        """Whether this QEMU has CXL for a machine type."""
        return {"cxl", "cxl-fmw"} <= self.machines.get(machine_type, frozenset()) and "cxl-type3" in self.devices

    def has(self, device: str, name: str) -> bool:
        """Whether a device has a property."""
        return name in self.devices.get(device, frozenset())

    def lacks(self, device: str) -> bool:
        """Whether a device was asked for and is not there."""
        return device in self.asked and device not in self.devices

    @property
    def windows_as_ram(self) -> bool:
        """Whether windows without interleaving are RAM to the guest; else every access is emulated."""
        return self.binary.version[:2] >= RAM_WINDOWS

    @property
    def decoders(self) -> int:
        """Decoders of a host bridge, hence regions behind it."""
        return 4 if self.binary.version[:2] >= FOUR_DECODERS else 1

    def accel(self, machine: Machine) -> Literal["kvm", "tcg"]:
        """The accelerator for a machine: what it wants, else KVM where it runs guests."""
        if machine.accel != "auto":
            return machine.accel
        return "kvm" if self.kvm is None and "kvm" in self.accelerators else "tcg"


class _Monitor:
    """QMP over a program's standard input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str, **arguments: str) -> Any:
        """The answer, or ``None`` for an error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                return None
            if "return" in answer:
                return answer["return"]
        raise StartError(f"QEMU ended while it was asked for {command}")


def probe_facts(binary: QemuBinary, devices: Iterable[str] = ()) -> QemuFacts:
    """Asks a QEMU what it offers, and whether it has ``devices``, too (under a second). Raises ``StartError``."""
    wanted = frozenset((*DEVICES, *devices))
    command = [binary.path, "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            facts = _ask_all(_Monitor(process), binary, wanted)
            process.communicate(json.dumps({"execute": "quit"}) + "\n", timeout=PROBE_SECONDS)
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired, StartError) as error:
            process.kill()
            _, said = process.communicate()
            why = said.strip().splitlines()[0] if said.strip() else error
            raise StartError(f"{binary.path} cannot be asked what it offers: {why}") from error
    return facts


def _ask_all(monitor: _Monitor, binary: QemuBinary, wanted: frozenset[str]) -> QemuFacts:
    monitor.ask("qmp_capabilities")
    arch = monitor.ask("query-target")["arch"]
    devices = {}
    for device in sorted(wanted):
        properties = monitor.ask("device-list-properties", typename=device)
        if properties is not None:
            devices[device] = frozenset(item["name"] for item in properties)
    machines = {}
    for machine in monitor.ask("query-machines"):
        alias = machine.get("alias", machine["name"])
        if alias in MACHINES.get(arch, ()):
            # Asked of an instance, so that properties without a class (`cxl` is one) are listed.
            properties = monitor.ask("qom-list-properties", typename=f"{machine['name']}-machine")
            machines[alias] = frozenset(item["name"] for item in properties or [])
    schema = monitor.ask("query-qmp-schema") or []
    commands = frozenset(item["name"] for item in schema if item["meta-type"] == "command")
    models = frozenset(item["name"] for item in monitor.ask("query-cpu-definitions") or [])
    # Lists of types (`qom-list-types`, `-device help`) would load every module, and end QEMU where one does not load.
    kvm = monitor.ask("query-kvm")
    accelerators = frozenset({"tcg", "kvm"} if kvm and kvm["present"] else {"tcg"})
    firmware = find_uefi(arch, binary)
    return QemuFacts(binary, arch, machines, devices, commands, models, accelerators, wanted, firmware=firmware)


def facts_for(machine: Machine) -> QemuFacts:
    """The QEMU that a machine names, with what KVM can do on this machine. Raises ``StartError``."""
    # Late: probing the host is not needed to describe machines.
    from leviathan.launch.local import LocalHost

    facts = probe_facts(probe_binary(machine.qemu), (network.model for network in machine.networks))
    if facts.arch != platform.machine():
        return replace(facts, kvm=f"this machine is {platform.machine()}, the guest {facts.arch}")
    return replace(facts, kvm=LocalHost().facts().kvm)
