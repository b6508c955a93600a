"""Fields of a description in QEMU's words: who wrote a command line looks for what he wrote there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from leviathan.model.machine import Machine

__all__ = ["spelled"]

OPTIONS = {
    "machine_type": "-machine",
    "gic_version": "-machine gic-version=",
    "acpi": "-no-acpi",
    "accel": "-accel",
    "cpu": "-smp",
    "cpu.model": "-cpu",
    "memory_max": "-m maxmem=",
    "memory_slots": "-m slots=",
    "numa": "-numa",
    "kernel": "-kernel",
    "append": "-append",
    "firmware": "-bios",
    "display.vnc": "-vnc",
    "display.adapter": "-vga",
}
WINDOW = {"targets": "targets", "size": "size", "granularity": "interleave-granularity"}
BRIDGE = {"bus": "bus_nr", "numa_node": "numa_node", "name": "id"}
PORT = {"port": "port", "chassis": "chassis", "slot": "slot", "name": "id"}
SWITCH = {"root_port": "bus", "serial": "sn", "name": "id"}
DEVICE = {
    "port": "bus",
    "serial": "sn",
    "name": "id",
    "labels": "lsa",
    "persistent": "persistent-memdev",
    "volatile": "volatile-memdev",
    "dynamic": "volatile-dc-memdev",
    "dynamic_regions": "num-dc-regions",
}
DEVICES = {"host_bridges": ("pxb-cxl", BRIDGE), "switches": ("cxl-upstream", SWITCH), "memory": ("cxl-type3", DEVICE)}
PORTS = {"root_ports": "cxl-rp", "ports": "cxl-downstream"}
INDEXED = re.compile(r"cxl\.(\w+)\.(\d+)(?:\.(\w+))?(?:\.(\d+))?(?:\.(\w+))?(?:\.\w+)*")


def spelled(machine: Machine, field: str) -> str | None:
    """Where a command line says what the field says: ``bus= of -device cxl-type3,id=d0``. None: no place of its own."""
    if field in OPTIONS:
        return OPTIONS[field]
    match = INDEXED.fullmatch(field)
    if match is None or machine.cxl is None:
        return None
    table, index, name, inner, last = match[1], int(match[2]), match[3], match[4], match[5]
    if table == "windows":
        return _window(index, name, inner)
    if table not in DEVICES:
        return None
    device, keys = DEVICES[table]
    described = _at(getattr(machine.cxl, table), index)
    if name in PORTS and inner is not None:
        device, described, name = PORTS[name], _at(getattr(described, name, None), int(inner)), last
        keys = PORT
    return None if described is None else _of(device, described.name, keys.get(name or ""))


def _window(index: int, name: str | None, inner: str | None) -> str | None:
    if name not in WINDOW:
        return None
    key = f"cxl-fmw.{index}.{WINDOW[name]}"
    return f"{key}.{inner}" if inner is not None else key


def _of(device: str, name: str | None, key: str | None) -> str | None:
    """A device with an id; ``key`` is its property that the field is about."""
    if name is None:
        return None
    return f"{key}= of -device {device},id={name}" if key else f"-device {device},id={name}"


def _at(described: Sequence[Any] | None, index: int) -> Any:
    return described[index] if described is not None and index < len(described) else None
