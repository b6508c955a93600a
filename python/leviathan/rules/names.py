"""Names are QEMU's ids: one namespace for devices, one for memory backends, one for drives, one for networks."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.rules.finding import Finding, error
from leviathan.rules.subject import Subject

__all__ = ["own_fields", "reserved_names", "unique_names"]

ROOT_BUSES = {"pcie.0", "pci.0", "main-system-bus", "sysbus"}


def _device_names(subject: Subject) -> Iterator[tuple[str, str]]:
    for number, bridge in enumerate(subject.bridges):
        yield f"cxl.host_bridges.{number}.name", bridge.name or ""
        for index, port in enumerate(bridge.root_ports or []):
            yield f"cxl.host_bridges.{number}.root_ports.{index}.name", port.name or ""
    for number, switch in enumerate(subject.cxl.switches):
        yield f"cxl.switches.{number}.name", switch.name or ""
        for index, below in enumerate(switch.ports):
            yield f"cxl.switches.{number}.ports.{index}.name", below.name or ""
    for number, device in enumerate(subject.cxl.memory):
        yield f"cxl.memory.{number}.name", device.name or ""


def _backend_names(subject: Subject) -> Iterator[tuple[str, str]]:
    for number, node in enumerate(subject.machine.numa):
        if node.memory is not None:
            yield f"numa.{number}", f"numa{number}"
    for field, _, _, backing in subject.backings():
        yield f"{field}.name", backing.name or ""


def unique_names(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Duplicate ID 'rp0' for device``; a reference would lead to either."""
    spaces = (
        _device_names(subject),
        _backend_names(subject),
        ((f"disks.{number}.name", disk.name or "") for number, disk in enumerate(subject.machine.disks)),
        ((f"networks.{number}.name", network.name or "") for number, network in enumerate(subject.machine.networks)),
    )
    for space in spaces:
        seen: dict[str, str] = {}
        for field, name in space:
            if name in seen:
                yield error(
                    "unique-names",
                    field,
                    f"{name!r} is already the name of {seen[name].removesuffix('.name')}",
                    "give it another one, or leave it out",
                )
            seen.setdefault(name, field)


def reserved_names(subject: Subject) -> Iterator[Finding]:
    """A bridge called like the machine's root bus would take devices away from it."""
    for field, name in _device_names(subject):
        if name in ROOT_BUSES:
            yield error("reserved-names", field, f"{name!r} is a bus of the machine itself", "give it another name")


_BRIDGE = {"id": "name", "bus_nr": "bus", "hdm_for_passthrough": "hdm_for_passthrough", "numa_node": "numa_node"}
_PORT = {"id": "name", "port": "port", "chassis": "chassis", "slot": "slot"}
_MEMORY = {
    "id": "name",
    "bus": "port",
    "sn": "serial",
    "lsa": "labels",
    "memdev": "persistent",
    "persistent-memdev": "persistent",
    "volatile-memdev": "volatile",
    "volatile-dc-memdev": "dynamic",
    "num-dc-regions": "dynamic_regions",
}
_BACKING = {"id": "name", "size": "size", "share": "shared", "mem-path": "file"}
_DISK = {"if": "interface", "id": "name", "file": "file", "format": "format", "readonly": "readonly"}
_DISK |= {"snapshot": "snapshot", "media": "cdrom", "drive": "name", "bootindex": "boot_index"}
_MACHINE = {"cxl": "cxl", "acpi": "acpi", "gic-version": "gic_version", "accel": "accel", "type": "machine_type"}


def own_fields(subject: Subject) -> Iterator[Finding]:
    """What has a field of its own is not repeated in ``options``, where it would win or clash unseen."""
    for field, options, own in _all_options(subject):
        for name in options:
            if name in own:
                yield error(
                    "own-fields", f"{field}.{name}", "has a field of its own", f"write it as {own[name]} instead"
                )
            elif name.startswith("cxl-fmw"):
                yield error("own-fields", f"{field}.{name}", "windows have a table", "write it under cxl.windows")


def _all_options(subject: Subject) -> Iterator[tuple[str, dict[str, bool | int | str], dict[str, str]]]:
    machine = subject.machine
    yield "machine_options", machine.machine_options, _MACHINE
    for number, bridge in enumerate(subject.bridges):
        yield f"cxl.host_bridges.{number}.options", bridge.options, _BRIDGE
    for place in [*subject.root_ports.values(), *subject.switch_ports.values()]:
        yield f"{place.field}.options", place.port.options, _PORT
    for number, switch in enumerate(subject.cxl.switches):
        yield f"cxl.switches.{number}.options", switch.options, {"id": "name", "bus": "root_port", "sn": "serial"}
    for number, device in enumerate(subject.cxl.memory):
        yield f"cxl.memory.{number}.options", device.options, _MEMORY
    for field, _, _, backing in subject.backings():
        yield f"{field}.options", backing.options, _BACKING
    for number, disk in enumerate(machine.disks):
        yield f"disks.{number}.options", disk.options, _DISK
        yield f"disks.{number}.drive_options", disk.drive_options, _DISK
    for number, network in enumerate(machine.networks):
        yield f"networks.{number}.options", network.options, {"netdev": "name", "id": "name", "mac": "mac"}
        own = {"id": "name", "hostfwd": "forward", "ifname": "interface", "br": "bridge"}
        yield f"networks.{number}.backend_options", network.backend_options, own
