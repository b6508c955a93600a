"""What a description leaves out, filled in: the same machine, with every name, number, size and file.

Completing is total and changes nothing that was given: a description that breaks a rule is completed too, so that
`leviathan.rules` can say what is wrong with it. Completing twice is completing once.

The order in which devices take free ports alternates between host bridges and, behind one bridge, between root ports.
Thus devices in the order of the list (and of their serial numbers) are in the order that an interleaved region wants:
position i of a region lies below target i mod N of its window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from leviathan.model.complete_disks import complete_disks, complete_networks
from leviathan.model.cxl import Backing, Cxl, CxlMemory, CxlPort, HostBridge, RootPort, Switch, Window
from leviathan.model.machine import Machine
from leviathan.model.pci_buses import place_buses
from leviathan.model.platform import NumaNode
from leviathan.model.sizes import GIB, MIB

__all__ = ["backing_file", "complete", "complete_cxl"]

WINDOW_UNIT = 256 * MIB
SMALLEST_WINDOW = 4 * GIB
"""Of those that we choose: room for what is plugged in later."""
LABELS_SIZE = MIB
GRANULARITY = 256
FIRST_SLOT = 2
LEAST_ROOT_PORTS = 2
"""Behind a single root port a host bridge has no decoders: one region only, and QEMU 7.2 loses its data."""
SERIAL_CONSOLE = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
_KINDS = {"persistent": "pmem", "volatile": "vmem", "dynamic": "dcd"}

Port = TypeVar("Port", bound=CxlPort)


def complete(machine: Machine, directory: str | Path | None = None) -> Machine:
    """The machine with everything filled in that does not depend on the QEMU at hand.

    ``directory`` is where the VM keeps files of its own; ``None`` leaves their names out.
    """
    changes: dict[str, Any] = {
        "boot": machine.boot if machine.boot != "auto" else _boot(machine),
        "disks": complete_disks(machine),
        "networks": complete_networks(machine),
        "reboot": machine.reboot if machine.reboot != "auto" else ("warm" if machine.cxl is None else "cold"),
    }
    if machine.stock and changes["boot"] == "kernel" and "console=" not in machine.append:
        changes["append"] = f"console={SERIAL_CONSOLE[machine.arch]} {machine.append}".rstrip()
    if machine.arch == "aarch64" and machine.gic_version == "auto":
        changes["gic_version"] = "3"
    if machine.display.adapter == "auto":
        shown = machine.display.vnc is not None or machine.display.window != "none"
        adapter = ("std" if machine.arch == "x86_64" else "virtio") if shown else "none"
        changes["display"] = machine.display.model_copy(update={"adapter": adapter})
    if machine.cxl is not None:
        changes["cxl"] = complete_cxl(machine.cxl, directory)
        # With the bit, x86 Linux refuses every region: "Failed to synchronize CPU cache state".
        if machine.arch == "x86_64" and "hypervisor" not in machine.cpu.features:
            features = machine.cpu.features | {"hypervisor": False}
            changes["cpu"] = machine.cpu.model_copy(update={"features": features})
        # Without a NUMA node of its own QEMU writes no SRAT, and Linux then counts CXL memory to node 0. Memory slots
        # make QEMU add one.
        if machine.stock and not machine.numa and not machine.memory_slots:
            cpus = "0" if machine.cpus == 1 else f"0-{machine.cpus - 1}"
            changes["numa"] = [NumaNode(cpus=cpus, memory=machine.memory)]
    return machine.model_copy(update=changes)


def _boot(machine: Machine) -> str:
    return "firmware" if machine.disks and machine.kernel is None else "kernel"


def backing_file(directory: str | Path, device: str, field: str) -> Path:
    """The file in the VM's directory that holds a device's memory or labels."""
    return Path(directory) / f"{device}-{field}.raw"


def complete_cxl(cxl: Cxl, directory: str | Path | None = None) -> Cxl:
    """The CXL part with everything filled in."""
    memory = _name_memory(cxl.memory)
    switches = [_complete_switch(switch, name) for switch, name in _named(cxl.switches, "sw")]
    bridges = _root_ports(_bridges(cxl), switches, memory)
    switches = _plug_switches(bridges, switches, memory)
    memory = _plug_memory(bridges, switches, memory)
    bridges, switches = _number_slots(bridges, switches)
    bridges = place_buses(bridges, switches)
    memory = [_fill_memory(device, directory) for device in _serials(memory)]
    windows = cxl.windows
    if windows is None:
        windows = [Window(targets=[bridge.name]) for bridge in bridges if bridge.name]
    return Cxl(
        memory=memory,
        host_bridges=bridges,
        switches=switches,
        windows=[_fill_window(window, bridges, switches, memory) for window in windows],
    )


# --- names ------------------------------------------------------------------------------------------------------------


def _fresh(prefix: str, taken: set[str], start: int = 0) -> str:
    number = start
    while f"{prefix}{number}" in taken:
        number += 1
    taken.add(f"{prefix}{number}")
    return f"{prefix}{number}"


def _named(items: Sequence[Any], prefix: str) -> Iterator[tuple[Any, str]]:
    taken = {item.name for item in items if item.name}
    for item in items:
        yield item, item.name or _fresh(prefix, taken)


def _name_memory(memory: Sequence[CxlMemory]) -> list[CxlMemory]:
    taken = {device.name for device in memory if device.name}
    named = []
    for index, device in enumerate(memory):
        kind = next((kind for field, kind in _KINDS.items() if getattr(device, field) is not None), "mem")
        name = device.name or _fresh(f"cxl-{kind}", taken, index)
        named.append(device.model_copy(update={"name": name}))
    return named


def _bridges(cxl: Cxl) -> list[HostBridge]:
    """Those given; else the windows' targets; else one."""
    if cxl.host_bridges is not None:
        return [bridge.model_copy(update={"name": name}) for bridge, name in _named(cxl.host_bridges, "hb")]
    targets = dict.fromkeys(target for window in cxl.windows or [] for target in window.targets)
    return [HostBridge(name=name) for name in targets or ["hb0"]]


# --- ports ------------------------------------------------------------------------------------------------------------


def _number_ports(ports: Sequence[Port], prefix: str) -> list[Port]:
    taken = {port.port for port in ports if port.port is not None}
    free = (number for number in range(256) if number not in taken)
    return [
        port.model_copy(update={"name": name, "port": next(free) if port.port is None else port.port})
        for port, name in _named(ports, prefix)
    ]


def _complete_switch(switch: Switch, name: str) -> Switch:
    return switch.model_copy(update={"name": name, "ports": _number_ports(switch.ports, f"{name}dp")})


def _root_ports(
    bridges: Sequence[HostBridge], switches: Sequence[Switch], memory: Sequence[CxlMemory]
) -> list[HostBridge]:
    """Every bridge with its root ports; those that list none get as many as are needed."""
    used = {device.port for device in memory} | {switch.root_port for switch in switches}
    given = [port.name for bridge in bridges for port in bridge.root_ports or []]
    below = [port.name for switch in switches for port in switch.ports]
    homeless = sum(device.port is None for device in memory)
    homeless -= sum(name is None or name not in used for name in below)
    wanted = max(homeless, 0) + sum(switch.root_port is None for switch in switches)
    wanted -= sum(name is None or name not in used for name in given)
    open_bridges = [bridge for bridge in bridges if bridge.root_ports is None]
    result = []
    for bridge in bridges:
        ports = bridge.root_ports
        if ports is None:
            share = -(-max(wanted, 0) // len(open_bridges))
            # Names of ours that the description already uses.
            ours = [n for n in range(256) if f"{bridge.name}rp{n}" in used]
            count = max(LEAST_ROOT_PORTS, share + len(ours), *(n + 1 for n in ours))
            ports = [RootPort() for _ in range(min(count, 256))]
        result.append(bridge.model_copy(update={"root_ports": _number_ports(ports, f"{bridge.name}rp")}))
    return result


def _alternating(columns: Iterable[Sequence[str]]) -> list[str]:
    """First items of all columns, then the second ones, and so on."""
    return [item for row in zip_longest(*columns) for item in row if item is not None]


def _port_names(ports: Iterable[CxlPort]) -> list[str]:
    return [port.name for port in ports if port.name is not None]


def _plug_switches(
    bridges: Sequence[HostBridge], switches: Sequence[Switch], memory: Sequence[CxlMemory]
) -> list[Switch]:
    used = {device.port for device in memory} | {switch.root_port for switch in switches}
    columns = [[name for name in _port_names(bridge.root_ports or []) if name not in used] for bridge in bridges]
    free = iter(_alternating(columns))
    return [
        switch if switch.root_port else switch.model_copy(update={"root_port": next(free, None)}) for switch in switches
    ]


def _plug_memory(
    bridges: Sequence[HostBridge], switches: Sequence[Switch], memory: Sequence[CxlMemory]
) -> list[CxlMemory]:
    used = {device.port for device in memory}
    behind: dict[str | None, list[str]] = {switch.root_port: _port_names(switch.ports) for switch in switches}
    columns = []
    for bridge in bridges:
        leaves = [behind.get(name, [name]) for name in _port_names(bridge.root_ports or [])]
        columns.append([name for name in _alternating(leaves) if name not in used])
    # What sits at a switch comes before free root ports: a switch is there to be used.
    at_switches = {name for names in behind.values() for name in names}
    order = [
        *_alternating([name for name in column if name in at_switches] for column in columns),
        *_alternating([name for name in column if name not in at_switches] for column in columns),
    ]
    free = iter(order)
    return [device if device.port else device.model_copy(update={"port": next(free, None)}) for device in memory]


def _number_slots(bridges: Sequence[HostBridge], switches: Sequence[Switch]) -> tuple[list[HostBridge], list[Switch]]:
    """Chassis 0 and the next free slot for every port that names none."""
    ports = [port for bridge in bridges for port in bridge.root_ports or []]
    below = [port for switch in switches for port in switch.ports]
    taken = {(port.chassis or 0, port.slot) for port in [*ports, *below] if port.slot is not None}

    def fill(port: Port) -> Port:
        chassis = port.chassis or 0
        slot = port.slot
        if slot is None:
            slot = next(number for number in range(FIRST_SLOT, 8192) if (chassis, number) not in taken)
            taken.add((chassis, slot))
        return port.model_copy(update={"chassis": chassis, "slot": slot})

    return (
        [
            bridge.model_copy(update={"root_ports": [fill(port) for port in bridge.root_ports or []]})
            for bridge in bridges
        ],
        [switch.model_copy(update={"ports": [fill(port) for port in switch.ports]}) for switch in switches],
    )


# --- devices and windows ----------------------------------------------------------------------------------------------


def _serials(memory: Sequence[CxlMemory]) -> Iterator[CxlMemory]:
    taken = {device.serial for device in memory}
    free = (number for number in range(1, 1 << 16) if number not in taken)
    for device in memory:
        yield device if device.serial is not None else device.model_copy(update={"serial": next(free)})


def _fill_memory(device: CxlMemory, directory: str | Path | None) -> CxlMemory:
    changes: dict[str, Any] = {}
    if device.persistent is not None and device.labels is None:
        device = device.model_copy(update={"labels": Backing(size=LABELS_SIZE)})
    for field, backing in device.backings():
        kind = backing.kind or ("file" if backing.file or field in ("persistent", "labels") else "ram")
        file = backing.file
        if kind == "file" and file is None and directory is not None:
            file = backing_file(directory, device.name or "", field)
        name = backing.name or f"{device.name}-{field}"
        changes[field] = backing.model_copy(update={"kind": kind, "file": file, "name": name})
    if device.dynamic is not None and device.dynamic_regions is None:
        changes["dynamic_regions"] = 1
    return device.model_copy(update=changes)


def _fill_window(
    window: Window, bridges: Sequence[HostBridge], switches: Sequence[Switch], memory: Sequence[CxlMemory]
) -> Window:
    size = window.size
    if size is None:
        ports = {n for b in bridges if b.name in window.targets for n in _port_names(b.root_ports or [])}
        ports |= {n for switch in switches if switch.root_port in ports for n in _port_names(switch.ports)}
        held = sum(device.capacity for device in memory if device.port in ports)
        unit = WINDOW_UNIT * window.ways
        size = -(-max(held, SMALLEST_WINDOW) // unit) * unit
    return window.model_copy(update={"size": size, "granularity": window.granularity or GRANULARITY})
