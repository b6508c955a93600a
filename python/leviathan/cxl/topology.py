"""The CXL topology of a running guest: windows, bridges, ports, memory devices, regions and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Dax", "Decoder", "Memdev", "Namespace", "Node", "Port", "Region", "Slot", "Topology", "Window"]

Kind = Literal["bridge", "switch"]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One address decoder of a port or a device."""

    name: str
    committed: bool
    region: str | None = None
    resource: int | None = None
    """Host physical address, as ``size`` in bytes."""
    size: int = 0
    ways: int = 1
    granularity: int = 0


@dataclass(frozen=True, slots=True)
class Memdev:
    """One memory device (type 3)."""

    name: str
    """The guest's name, such as ``mem0``: another one after each boot."""
    serial: int
    pmem: int = 0
    """Bytes of persistent memory."""
    ram: int = 0
    host: str = ""
    """PCI address in the guest."""
    enabled: bool = True
    """It has an endpoint: the path from the bridge to it is complete."""
    decoders: tuple[Decoder, ...] = ()
    media_errors: tuple[tuple[int, int, str], ...] = ()
    """Poison: offset, length, source."""
    id: str | None = None
    """QEMU's name of the device."""

    @property
    def label(self) -> str:
        """How it is called in messages: QEMU's name if there is one."""
        return self.id or f"serial {self.serial:#x}"


@dataclass(frozen=True, slots=True)
class Slot:
    """One downstream port: a root port of a bridge, or a port of a switch; with what hangs below it."""

    name: str
    """PCI address."""
    number: int
    child: Port | Memdev | None = None
    id: str | None = None
    """QEMU's name."""


@dataclass(frozen=True, slots=True)
class Port:
    """A host bridge or a switch."""

    name: str
    host: str
    """``pci0000:0c`` for a bridge on bus 12."""
    kind: Kind
    slots: tuple[Slot, ...] = ()
    """In the order of their numbers."""
    decoders: tuple[Decoder, ...] = ()
    id: str | None = None
    """QEMU's name."""

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return self.id or self.host

    def memdevs(self) -> Iterator[Memdev]:
        """All devices below it."""
        for slot in self.slots:
            if isinstance(slot.child, Memdev):
                yield slot.child
            elif slot.child is not None:
                yield from slot.child.memdevs()


@dataclass(frozen=True, slots=True)
class Window:
    """A fixed memory window: host physical addresses that go to its targets in turn."""

    decoder: str
    resource: int
    size: int
    targets: tuple[str, ...]
    """Hosts of the bridges, in the order of the window."""
    granularity: int = 256
    pmem: bool = True
    ram: bool = True
    free: int = 0
    """The largest region that still fits, bytes."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace on persistent memory."""

    name: str
    mode: str
    size: int
    device: str | None = None
    """Block device ``pmem0`` or character device ``dax0.0``."""
    mount: str | None = None
    """Where a file system on it is mounted."""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Dax:
    """A DAX device on a region."""

    name: str
    size: int
    mode: str
    """``system-ram`` or ``devdax``."""
    node: int | None = None
    """The NUMA node that its memory belongs to, or would."""
    online: int = 0
    """Memory blocks online, of ``blocks``."""
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """An interleave set."""

    name: str
    kind: str
    """``pmem`` or ``ram``."""
    size: int
    ways: int
    granularity: int
    committed: bool
    decoder: str
    """Its window."""
    resource: int | None = None
    members: tuple[str, ...] = ()
    """Names of the memory devices (``mem0``), in the order of their positions."""
    daxes: tuple[Dax, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node of the guest."""

    number: int
    size: int
    """Bytes."""
    cpus: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """All of it."""

    windows: tuple[Window, ...] = ()
    bridges: tuple[Port, ...] = ()
    regions: tuple[Region, ...] = ()
    loose: tuple[Memdev, ...] = ()
    """Memory devices without a path to a bridge."""
    nodes: tuple[Node, ...] = field(default=())

    def memdevs(self) -> Iterator[Memdev]:
        """Every memory device."""
        for bridge in self.bridges:
            yield from bridge.memdevs()
        yield from self.loose

    def memdev(self, name: str) -> Memdev | None:
        """By the guest's name."""
        return next((each for each in self.memdevs() if each.name == name), None)

    def region_of(self, memdev: Memdev) -> tuple[Region, ...]:
        """The regions that a device is part of."""
        return tuple(region for region in self.regions if memdev.name in region.members)
