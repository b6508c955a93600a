"""What is plugged into what: one device to a port, ports of the right kind, numbers that decoders can route by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from leviathan.model.cxl import CxlPort
from leviathan.rules.finding import Finding, error
from leviathan.rules.names import ROOT_BUSES
from leviathan.rules.subject import Subject

__all__ = [
    "device_address",
    "empty_parents",
    "memory_ports",
    "one_to_a_port",
    "port_counts",
    "port_numbers",
    "slots",
    "switch_ports",
]

PORTS = 32
"""Slots of a PCI bus."""


def _known(names: Iterable[str]) -> str:
    shown = sorted(names)
    return "name one of " + ", ".join(shown) if shown else "describe one first"


def memory_ports(subject: Subject) -> Iterator[Finding]:
    """Memory devices sit on root ports or switch ports; elsewhere the guest finds a device but no way to its memory."""
    ports = {**subject.root_ports, **subject.switch_ports}
    bridges = {bridge.name for bridge in subject.bridges}
    switches = {switch.name: switch for switch in subject.cxl.switches}
    for number, device in enumerate(subject.cxl.memory):
        field, port = f"cxl.memory.{number}.port", device.port
        if port in ports:
            continue
        if port is None:
            remedy = "give cxl.host_bridges.0.root_ports one more, or leave root_ports out"
            yield error("memory-port", field, "no root port or switch port is free for this device", remedy)
        elif port in bridges:
            problem = (
                f"{port!r} is a host bridge, which takes only ports (QEMU: Only PCI/PCIe bridges can be plugged in)"
            )
            yield error("memory-port", field, problem, f"{_known(ports)}, or leave port out")
        elif port in switches:
            below = [name for name, place in subject.switch_ports.items() if place.switch is switches[port]]
            yield error("memory-port", field, f"{port!r} is a switch, not one of its ports", _known(below))
        elif port in ROOT_BUSES:
            problem = f"on {port!r} the guest says `CXL port topology not found` and cannot use the memory"
            yield error("memory-port", field, problem, f"{_known(ports)}, or leave port out")
        else:
            problem = f"there is no root port or switch port {port!r}"
            yield error("memory-port", field, problem, f"{_known(ports)}, or leave port out")


def switch_ports(subject: Subject) -> Iterator[Finding]:
    """Switches sit on root ports, one level deep: Linux and QEMU's decoders know no more."""
    for number, switch in enumerate(subject.cxl.switches):
        field, port = f"cxl.switches.{number}.root_port", switch.root_port
        if port in subject.root_ports:
            continue
        remedy = _known(subject.root_ports)
        if port is None:
            yield error("switch-port", field, "no root port is free for this switch", "add one to a host bridge")
        elif port in subject.switch_ports:
            problem = f"{port!r} is a port of a switch; one level of switches works, two do not"
            yield error("switch-port", field, problem, remedy)
        else:
            yield error("switch-port", field, f"there is no root port {port!r}", remedy)


def one_to_a_port(subject: Subject) -> Iterator[Finding]:
    """A port has one slot, number 0: of two devices the guest sees that one alone."""
    users: dict[str, str] = {}
    for number, switch in enumerate(subject.cxl.switches):
        port = switch.root_port
        if port in users:
            problem = f"{port!r} already holds {users[port]}"
            yield error("one-to-a-port", f"cxl.switches.{number}.root_port", problem, "use another root port")
        elif port is not None:
            users[port] = f"cxl.switches.{number}"
    for number, device in enumerate(subject.cxl.memory):
        port = device.port
        if port in users:
            problem = f"{port!r} already holds {users[port]}; the guest would see only one of them"
            yield error("one-to-a-port", f"cxl.memory.{number}.port", problem, "use another port, or leave port out")
        elif port is not None:
            users[port] = f"cxl.memory.{number}"


def device_address(subject: Subject) -> Iterator[Finding]:
    """QEMU accepts ``addr=1`` below a port (7.2 in silence), the guest looks at slot 0 only."""
    for number, device in enumerate(subject.cxl.memory):
        address = str(device.options.get("addr", "0"))
        if address not in ("0", "0.0", "0x0", "00", "00.0"):
            problem = f"below a port there is slot 0 only: the guest would not see a device at {address}"
            yield error("device-address", f"cxl.memory.{number}.options.addr", problem, "leave it out")


def empty_parents(subject: Subject) -> Iterator[Finding]:
    """Bridges and switches without ports lead nowhere; QEMU accepts them."""
    if subject.machine.cxl is not None and subject.cxl.memory and not subject.bridges:
        yield error("empty", "cxl.host_bridges", "the list is empty, so devices have no place", "leave it out")
    for number, bridge in enumerate(subject.bridges):
        if not bridge.root_ports:
            problem = "a host bridge without root ports holds nothing"
            yield error("empty", f"cxl.host_bridges.{number}.root_ports", problem, "give it 2, or leave it out")
    for number, switch in enumerate(subject.cxl.switches):
        if not switch.ports:
            yield error("empty", f"cxl.switches.{number}.ports", "a switch without ports holds nothing", "give it 2")


def port_counts(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``PCI: no slot/function available for cxl-rp, all in use or reserved``."""
    parents = [
        (f"cxl.host_bridges.{number}.root_ports", len(bridge.root_ports or []), "host bridge")
        for number, bridge in enumerate(subject.bridges)
    ]
    parents += [
        (f"cxl.switches.{number}.ports", len(switch.ports), "switch")
        for number, switch in enumerate(subject.cxl.switches)
    ]
    for field, count, kind in parents:
        if count > PORTS:
            problem = f"{count} ports: a bus has {PORTS} slots"
            yield error("port-counts", field, problem, f"use up to {PORTS}, and another {kind} for the rest")


def port_numbers(subject: Subject) -> Iterator[Finding]:
    """Decoders route by port number, so two ports of one parent must differ; QEMU accepts them equal."""

    def check(field: str, ports: Iterable[CxlPort]) -> Iterator[Finding]:
        seen: dict[int, str] = {}
        for index, port in enumerate(ports):
            if port.port is not None and port.port in seen:
                problem = f"{seen[port.port]!r} has port number {port.port}, too; decoders route by it"
                yield error("port-numbers", f"{field}.{index}.port", problem, "leave it out to have the next free one")
            elif port.port is not None:
                seen[port.port] = port.name or ""

    for number, bridge in enumerate(subject.bridges):
        yield from check(f"cxl.host_bridges.{number}.root_ports", bridge.root_ports or [])
    for number, switch in enumerate(subject.cxl.switches):
        yield from check(f"cxl.switches.{number}.ports", switch.ports)


def slots(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Can't add chassis slot, error -16``."""
    seen: dict[tuple[int | None, int | None], str] = {}
    for place in [*subject.root_ports.values(), *subject.switch_ports.values()]:
        key = (place.port.chassis, place.port.slot)
        if key in seen:
            problem = f"chassis {key[0]}, slot {key[1]} is already that of {seen[key]!r}"
            yield error("slots", f"{place.field}.slot", problem, "leave it out to have the next free one")
        seen.setdefault(key, place.port.name or "")
