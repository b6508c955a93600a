"""What rules look at: the completed machine, indexed, and what is known about QEMU and the guest's kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from leviathan.model.cxl import Backing, Cxl, CxlMemory, CxlPort, HostBridge, Switch, Window
from leviathan.model.machine import Machine
from leviathan.qemu.facts import QemuFacts

__all__ = ["KernelFacts", "Place", "Subject"]


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """The guest's kernel, as far as its files tell."""

    release: str
    """As ``uname -r`` says it."""
    config: Mapping[str, str] | None = None
    """Its configuration without ``CONFIG_``: ``y``, ``m`` or a value; ``None`` if it is not at hand."""

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number."""
        numbers = self.release.split("-")[0].split(".")
        try:
            return int(numbers[0]), int(numbers[1])
        except (IndexError, ValueError):
            return 0, 0


@dataclass(frozen=True, slots=True)
class Place:
    """A port with where it stands."""

    field: str
    port: CxlPort
    bridge: HostBridge | None
    """The host bridge that it lies below; ``None`` for a switch that is plugged in nowhere."""
    switch: Switch | None = None


@dataclass(frozen=True)
class Subject:
    """A machine under examination. Lists keep the user's order, so indices are the user's own."""

    given: Machine
    machine: Machine
    """Completed."""
    qemu: QemuFacts | None = None
    kernel: KernelFacts | None = None
    directory: Path | None = None

    @property
    def cxl(self) -> Cxl:
        """The completed CXL part; empty without one."""
        return self.machine.cxl or Cxl(host_bridges=[], windows=[])

    @property
    def accel(self) -> Literal["kvm", "tcg"] | None:
        """The accelerator, as far as it is known."""
        if not self.given.stock:
            # In lab machines, where this machine has none.
            return "kvm"
        if self.machine.accel != "auto":
            return self.machine.accel
        return self.qemu.accel(self.machine) if self.qemu else None

    @property
    def bridges(self) -> list[HostBridge]:
        """All host bridges."""
        return self.cxl.host_bridges or []

    @property
    def windows(self) -> list[Window]:
        """All fixed memory windows."""
        return self.cxl.windows or []

    def backings(self) -> Iterator[tuple[str, CxlMemory, str, Backing]]:
        """Field path, device, field name and value of everything that holds bytes."""
        for index, device in enumerate(self.cxl.memory):
            for field, backing in device.backings():
                yield f"cxl.memory.{index}.{field}", device, field, backing

    @cached_property
    def root_ports(self) -> dict[str, Place]:
        """Root ports by name; of two with one name the first (another rule names them)."""
        places: dict[str, Place] = {}
        for number, bridge in enumerate(self.bridges):
            for index, port in enumerate(bridge.root_ports or []):
                place = Place(f"cxl.host_bridges.{number}.root_ports.{index}", port, bridge)
                places.setdefault(port.name or "", place)
        return places

    @cached_property
    def switch_ports(self) -> dict[str, Place]:
        """Downstream ports of switches by name."""
        places: dict[str, Place] = {}
        for number, switch in enumerate(self.cxl.switches):
            above = self.root_ports.get(switch.root_port or "")
            for index, port in enumerate(switch.ports):
                place = Place(f"cxl.switches.{number}.ports.{index}", port, above.bridge if above else None, switch)
                places.setdefault(port.name or "", place)
        return places

    def bridge_of(self, device: CxlMemory) -> HostBridge | None:
        """The host bridge that a device lies below."""
        name = device.port or ""
        place = self.root_ports.get(name) or self.switch_ports.get(name)
        return place.bridge if place else None

    def windows_of(self, bridge: HostBridge | None) -> list[Window]:
        """Windows that have a bridge as a target."""
        return [window for window in self.windows if bridge is not None and bridge.name in window.targets]

    @cached_property
    def interleaved(self) -> bool:
        """Whether some window is interleaved: accesses to it are emulated by every QEMU."""
        return any(window.ways > 1 for window in self.windows)
