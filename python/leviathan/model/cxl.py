"""The CXL part of a machine: host bridges, root ports, switches, memory devices, fixed memory windows.

A description names what it wants and leaves out the rest: `leviathan.model.complete` fills in names, bus numbers,
slots, serial numbers, windows and files. What cannot work is found by `leviathan.rules`, not here: a wrong topology can
be described, and the answer says which rule it breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from leviathan.model.base import Id, Options, Strict
from leviathan.model.sizes import Size, format_size, parse_amount

__all__ = [
    "Backing",
    "Cxl",
    "CxlMemory",
    "CxlPort",
    "Granularity",
    "HostBridge",
    "RootPort",
    "Switch",
    "SwitchPort",
    "Window",
]

Byte = Annotated[int, Field(ge=0, le=255)]


def _granularity(value: Any) -> Any:
    return parse_amount(value) if isinstance(value, str) else value


Granularity = Annotated[
    int,
    BeforeValidator(_granularity, json_schema_input_type=str | int),
    PlainSerializer(format_size, return_type=str, when_used="json"),
]
"""Bytes of an interleave set that lie on one target before the next one's turn: ``"256"`` to ``"16K"``."""


def _serial(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return int(value, 0)
    except ValueError:
        raise ValueError(f"{value!r} is not a serial number; write 1 or 0x1") from None


Serial = Annotated[
    int,
    BeforeValidator(_serial, json_schema_input_type=str | int),
    Field(ge=0, lt=1 << 64),
    PlainSerializer(
        # TOML's integers end at 63 bits.
        lambda serial: serial if serial < 1 << 63 else hex(serial),
        return_type=int | str,
        when_used="json",
    ),
]


class Backing(Strict):
    """Where the bytes of a CXL device are kept on this machine; written in short as its size: ``"256M"``."""

    size: Size
    file: Path | None = None
    """The file; left out where ``kind`` is ``file``: one in the VM's own directory, made when needed."""
    kind: Literal["file", "ram", "memfd"] | None = None
    """``file``, ``ram`` or ``memfd``. Left out: a file for persistent memory and labels, else ram."""
    shared: bool = True
    """Writes reach the file (QEMU's ``share=on``)."""
    name: Id | None = None
    """QEMU's id of the memory backend; left out: made from the device's name."""
    options: Options = {}
    """More properties of the memory backend, such as ``prealloc`` or ``host-nodes``."""


def _backing(value: Any) -> Any:
    return {"size": value} if isinstance(value, str | int) and not isinstance(value, bool) else value


BackingField = Annotated[Backing, BeforeValidator(_backing, json_schema_input_type=str | int | Backing)]


class CxlPort(Strict):
    """What root ports and switch ports have in common: each holds one device, or is empty for hot-add."""

    name: Id | None = None
    port: Byte | None = None
    """Port number, unique below one host bridge or in one switch: decoders route by it."""
    chassis: Byte | None = None
    slot: Annotated[int, Field(ge=0, le=8191)] | None = None
    """With the chassis, unique in the machine."""
    options: Options = {}


class RootPort(CxlPort):
    """A root port of a host bridge: holds one device or one switch, or is empty for hot-add."""


def _ports(value: Any) -> Any:
    """``2`` and ``["rp0", "rp1"]`` are short for tables."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= 255:
            raise ValueError(f"{value} ports: there are 0 to 255")
        return [{} for _ in range(value)]
    if isinstance(value, list):
        return [{"name": item} if isinstance(item, str) else item for item in value]
    return value


class HostBridge(Strict):
    """A CXL host bridge: a root of its own in the PCI hierarchy, and the target of fixed memory windows."""

    name: Id | None = None
    """Left out: hb0, hb1…"""
    bus: Byte | None = None
    """Its PCI bus number. Each root port and each switch port takes one of those that follow."""
    root_ports: (
        Annotated[list[RootPort], BeforeValidator(_ports, json_schema_input_type=int | list[str | RootPort])] | None
    ) = None
    """A number, names, or tables; left out: one for each device that needs it, two at least."""
    hdm_for_passthrough: bool | None = None
    """Decoders even with a single root port, so that more than one region fits behind it; needs QEMU 8 or newer."""
    numa_node: Annotated[int, Field(ge=0, le=127)] | None = None
    """The NUMA node of the guest that it is near to."""
    options: Options = {}


class SwitchPort(CxlPort):
    """A downstream port of a switch."""


class Switch(Strict):
    """A CXL switch below a root port: its upstream port with ``name``, and its downstream ports."""

    name: Id | None = None
    """Left out: sw0, sw1…"""
    root_port: Id | None = None
    """The root port that it is plugged into; left out: the next free one."""
    ports: Annotated[list[SwitchPort], BeforeValidator(_ports, json_schema_input_type=int | list[str | SwitchPort])]
    """A number, names, or tables."""
    serial: Serial | None = None
    options: Options = {}


class CxlMemory(Strict):
    """A CXL type-3 device: persistent, volatile or dynamic capacity, or several of them."""

    name: Id | None = None
    """Left out: cxl-pmem0, cxl-vmem1, cxl-dcd2… by what it is and its place in the list."""
    port: Id | None = None
    """The root port or switch port that it is plugged into; left out: the next free one."""
    persistent: BackingField | None = None
    """Persistent memory: survives power-off in its file."""
    volatile: BackingField | None = None
    dynamic: BackingField | None = None
    """Dynamic capacity (DCD): extents are added and released while the machine runs."""
    dynamic_regions: Annotated[int, Field(ge=1, le=8)] | None = None
    """Regions that dynamic capacity is cut into; left out: 1."""
    labels: BackingField | None = None
    """Label storage area (LSA), where persistent memory keeps its namespaces; left out: 1M if it is persistent."""
    serial: Serial | None = None
    """Serial number, by which the device is found in the guest; left out: 1, 2, 3…"""
    options: Options = {}

    def backings(self) -> Iterator[tuple[str, Backing]]:
        """Field names and values of everything that holds bytes, labels last."""
        for field in ("persistent", "volatile", "dynamic", "labels"):
            backing = getattr(self, field)
            if backing is not None:
                yield field, backing

    @property
    def capacity(self) -> int:
        """Bytes of memory that a window has to hold."""
        return sum(backing.size for field, backing in self.backings() if field != "labels")


class Window(Strict):
    """A CXL fixed memory window: host physical addresses that go to its targets in turn."""

    targets: Annotated[list[Id], Field(min_length=1)]
    """Host bridges; more than one: the window is interleaved over them, in this order."""
    size: Size | None = None
    """A multiple of 256M; left out: room for all devices behind the targets, 4G at least."""
    granularity: Granularity | None = None
    """Bytes on one target before the next one's turn: 256 (if left out) to 16K."""

    @property
    def ways(self) -> int:
        """Over how many targets it is interleaved."""
        return len(self.targets)


class Cxl(Strict):
    """All CXL of a machine."""

    memory: list[CxlMemory] = []
    host_bridges: list[HostBridge] | None = None
    """Left out: one, hb0."""
    switches: list[Switch] = []
    windows: list[Window] | None = None
    """Left out: one for each host bridge."""
