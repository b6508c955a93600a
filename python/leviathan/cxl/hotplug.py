"""Memory devices that come and go while the machine runs, and extents of dynamic capacity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from leviathan.cxl.guest import CxlGuest, find_memdev
from leviathan.cxl.inject import device_path, qemu_schema, qemu_version
from leviathan.cxl.names import PERIPHERAL
from leviathan.cxl.schema import require
from leviathan.cxl.topology import Memdev, Port, Slot, Topology
from leviathan.errors import LeviathanError, TimeOver, UsageError
from leviathan.model.sizes import format_size

__all__ = ["add_extent", "plug", "release_extent", "unplug"]

UNIT = 256 << 20
LABELS = 1 << 20
PLUG_SECONDS = 60.0
UNPLUG_SECONDS = 150.0
"""The guest waits 5 s by itself, in case that the button is pressed again; one on a busy machine much longer."""
POLL_SECONDS = 0.5


def plug(
    guest: CxlGuest,
    size: int,
    *,
    persistent: str | None = None,
    port: str | None = None,
    name: str | None = None,
    serial: int | None = None,
) -> Memdev:
    """Plugs a memory device into an empty port; returns it once the guest has it.

    ``persistent``: the file that holds it (``FILE.labels`` beside it the labels); without, it is volatile.
    Raises ``UsageError``, ``TimeOver``.
    """
    if size <= 0 or size % UNIT:
        raise UsageError(f"--size {format_size(size)}: a multiple of 256M; the guest ignores other devices")
    topology = guest.topology()
    slot = _empty(topology, port)
    serials = {memdev.serial for memdev in topology.memdevs()}
    serial = serial if serial is not None else max(serials, default=0) + 1
    if serial in serials:
        raise UsageError(f"--serial {serial:#x}: there is a device with it")
    name = name or f"hot{serial}"
    if name in _objects(guest, PERIPHERAL):
        raise UsageError(f"--name {name}: QEMU has a device of this name")
    backends = _backends(name, size, persistent)
    added: list[str] = []
    try:
        for backend in backends:
            guest.machine.qmp("object-add", arguments=backend)
            added.append(str(backend["id"]))
        device: dict[str, Any] = {"driver": "cxl-type3", "id": name, "bus": slot.id, "sn": serial}
        if persistent is None:
            device["volatile-memdev"] = backends[0]["id"]
        else:
            field = "persistent-memdev" if _new_names(guest) else "memdev"
            device |= {field: backends[0]["id"], "lsa": backends[1]["id"]}
        guest.machine.qmp("device_add", arguments=device)
    except LeviathanError:
        for each in added:
            with suppress(LeviathanError):
                guest.machine.qmp("object-del", arguments={"id": each})
        raise
    return _await_memdev(guest, serial, name)


def unplug(guest: CxlGuest, name: str) -> Memdev:
    """Unplugs a device; returns what it was once it is gone. Raises ``UsageError`` while a region uses it."""
    topology = guest.topology()
    memdev = find_memdev(name, topology)
    path = device_path(memdev)
    if regions := topology.region_of(memdev):
        names = ", ".join(region.name for region in regions)
        raise UsageError(f"{memdev.label} is part of {names}", hint=f"lev cxl destroy-region VM {regions[0].name}")
    backends = _backends_of(guest, path)
    guest.run(f"cxl disable-memdev -f {memdev.name}")
    guest.machine.qmp("device_del", arguments={"id": memdev.id})
    _await_gone(guest, path, memdev.label)
    for backend in backends:
        # Objects of the command line stay if something else uses them.
        with suppress(LeviathanError):
            guest.machine.qmp("object-del", arguments={"id": backend})
    return memdev


def add_extent(guest: CxlGuest, device: str, region: int, extents: Sequence[tuple[int, int]]) -> None:
    """Offers extents (offset, length in bytes) of a dynamic capacity region to the guest. Raises ``UsageError``."""
    _change_extents(guest, "cxl-add-dynamic-capacity", device, region, extents, {"selection-policy": "prescriptive"})


def release_extent(guest: CxlGuest, device: str, region: int, extents: Sequence[tuple[int, int]]) -> None:
    """Takes extents back. Raises ``UsageError``."""
    arguments = {"removal-policy": "prescriptive", "forced-removal": False, "sanitize-on-release": False}
    _change_extents(guest, "cxl-release-dynamic-capacity", device, region, extents, arguments)


def _change_extents(
    guest: CxlGuest, command: str, device: str, region: int, extents: Sequence[tuple[int, int]], more: dict[str, Any]
) -> None:
    schema = qemu_schema(guest)
    require(schema, command, qemu_version(guest))
    if not 0 <= region <= 7:
        raise UsageError(f"--region {region}: a device has dynamic regions 0 to 7")
    memdev = find_memdev(device, guest.topology())
    members = schema.members(command)
    arguments: dict[str, Any] = {name: value for name, value in more.items() if name in members}
    arguments |= {
        "path": device_path(memdev),
        "host-id": 0,
        "region": region,
        "extents": [{"offset": offset, "len": length} for offset, length in extents],
    }
    guest.machine.qmp(command, arguments=arguments)


def _empty(topology: Topology, wanted: str | None) -> Slot:
    """An empty port that has a name. Raises ``UsageError``."""
    slots = [slot for bridge in topology.bridges for slot in _slots(bridge)]
    if wanted is None:
        for slot in slots:
            if slot.child is None and slot.id is not None:
                return slot
        raise UsageError("no port is empty", hint="describe the machine with more: host_bridges = [{ root_ports = 4 }]")
    for slot in slots:
        if wanted in (slot.id, slot.name):
            if slot.child is not None:
                child = slot.child.label
                raise UsageError(f"--port {wanted}: {child} is plugged into it")
            return slot
    empty = ", ".join(slot.id for slot in slots if slot.child is None and slot.id)
    raise UsageError(f"there is no port {wanted}", hint=f"these are empty: {empty or 'none'}")


def _slots(port: Port) -> list[Slot]:
    found = list(port.slots)
    for slot in port.slots:
        if isinstance(slot.child, Port):
            found += _slots(slot.child)
    return found


def _backends(name: str, size: int, persistent: str | None) -> list[dict[str, Any]]:
    if persistent is None:
        return [{"qom-type": "memory-backend-ram", "id": f"{name}-memory", "size": size, "share": True}]
    common = {"qom-type": "memory-backend-file", "share": True}
    return [
        common | {"id": f"{name}-memory", "size": size, "mem-path": persistent},
        common | {"id": f"{name}-labels", "size": LABELS, "mem-path": f"{persistent}.labels"},
    ]


def _new_names(guest: CxlGuest) -> bool:
    properties = guest.machine.qmp("device-list-properties", arguments={"typename": "cxl-type3"})
    return any(item["name"] == "persistent-memdev" for item in properties)


def _backends_of(guest: CxlGuest, path: str) -> list[str]:
    names = []
    for field in ("volatile-memdev", "persistent-memdev", "memdev", "volatile-dc-memdev", "lsa"):
        with suppress(LeviathanError):
            value = guest.machine.qmp("qom-get", arguments={"path": path, "property": field})
            if isinstance(value, str) and value:
                names.append(value.rpartition("/")[2])
    return names


def _objects(guest: CxlGuest, path: str) -> set[str]:
    return {str(item["name"]) for item in guest.machine.qmp("qom-list", arguments={"path": path})}


def _await_gone(guest: CxlGuest, path: str, label: str) -> None:
    """Looks for the device itself: QEMU 10.0 never sends DEVICE_DELETED for a memory device that is gone."""
    folder, _, name = path.rpartition("/")
    end = time.monotonic() + UNPLUG_SECONDS
    while any(item["name"] == name for item in guest.machine.qmp("qom-list", arguments={"path": folder})):
        if time.monotonic() >= end:
            raise TimeOver(f"the guest has not let go of {label} after {UNPLUG_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def _await_memdev(guest: CxlGuest, serial: int, name: str) -> Memdev:
    end = time.monotonic() + PLUG_SECONDS
    while True:
        for memdev in guest.topology().memdevs():
            if memdev.serial == serial and memdev.enabled:
                return memdev
        if time.monotonic() >= end:
            raise TimeOver(f"{name} is plugged in, but the guest has not found it after {PLUG_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
