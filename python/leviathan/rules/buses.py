"""PCI bus numbers of host bridges."""

from __future__ import annotations

from collections.abc import Iterator

from leviathan.model.pci_buses import LAST_BUS, buses_needed
from leviathan.rules.finding import Finding, error
from leviathan.rules.subject import Subject

__all__ = ["bus_numbers", "bus_ranges"]


def bus_numbers(subject: Subject) -> Iterator[Finding]:
    """Bus 0 is the machine's; what does not end at 255 does not fit (255 itself hangs the guest before it boots)."""
    for number, bridge in enumerate(subject.bridges):
        field, bus, need = f"cxl.host_bridges.{number}.bus", bridge.bus or 0, buses_needed(bridge, subject.cxl.switches)
        if bus == 0:
            problem = "0 is the bus of the machine itself: the guest would find no memory device"
            yield error("bus-number", field, problem, "use 12, or leave it out")
        elif bus + need - 1 > LAST_BUS:
            problem = f"{bus} leaves no room for the {need} buses of this bridge and its ports, which end at {LAST_BUS}"
            yield error("bus-number", field, problem, f"use at most {LAST_BUS - need + 1}, or leave it out")


def bus_ranges(subject: Subject) -> Iterator[Finding]:
    """Ranges that overlap: the guest's kernel dereferences NULL in ``pbus_validate_busn``."""
    taken: list[tuple[range, str]] = []
    for number, bridge in enumerate(subject.bridges):
        bus = bridge.bus or 0
        span = range(bus, bus + buses_needed(bridge, subject.cxl.switches))
        for other, name in taken:
            if span.start < other.stop and other.start < span.stop:
                problem = (
                    f"buses {span.start} to {span.stop - 1} overlap those of {name!r} ({other.start} to "
                    f"{other.stop - 1}); the guest's kernel crashes at boot"
                )
                remedy = "leave room for one bus for each root port and switch port, or leave bus out"
                yield error("bus-ranges", f"cxl.host_bridges.{number}.bus", problem, remedy)
                break
        taken.append((span, bridge.name or ""))
