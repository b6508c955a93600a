"""PCI bus numbers of CXL host bridges.

A host bridge has the bus ``bus``; firmware numbers what lies below it upwards from there: one bus for each root port,
and below a switch one for its inside and one for each of its ports. Ranges that overlap crash the guest's kernel
(``pbus_validate_busn``), so bridges are spaced.
"""

from __future__ import annotations

from collections.abc import Sequence

from leviathan.model.cxl import HostBridge, Switch

__all__ = ["FIRST_BUS", "LAST_BUS", "buses_needed", "place_buses"]

FIRST_BUS = 12
"""Below it is room for bridges on the machine's own root bus."""
SPACING = 40
LAST_BUS = 255


def buses_needed(bridge: HostBridge, switches: Sequence[Switch]) -> int:
    """Consecutive bus numbers that a bridge takes, its own included."""
    ports = bridge.root_ports or []
    names = {port.name for port in ports}
    below = sum(1 + len(switch.ports) for switch in switches if switch.root_port in names)
    return 1 + len(ports) + below


def place_buses(bridges: Sequence[HostBridge], switches: Sequence[Switch]) -> list[HostBridge]:
    """Bridges with a bus number each; those given stay as they are, even if they clash."""
    taken = [
        range(bridge.bus, bridge.bus + buses_needed(bridge, switches)) for bridge in bridges if bridge.bus is not None
    ]
    result = []
    for bridge in bridges:
        if bridge.bus is not None:
            result.append(bridge)
            continue
        need = buses_needed(bridge, switches)
        spaced = max(SPACING, need)
        # Spaced as long as there is room; then close together; a rule refuses what does not fit at all.
        start = _gap(taken, need, range(FIRST_BUS, LAST_BUS + 1, spaced))
        if start is None:
            start = _gap(taken, need, range(FIRST_BUS, LAST_BUS + 1))
        if start is None:
            start = LAST_BUS
        taken.append(range(start, start + need))
        result.append(bridge.model_copy(update={"bus": start}))
    return result


def _gap(taken: Sequence[range], need: int, starts: range) -> int | None:
    for start in starts:
        end = start + need
        if end <= LAST_BUS + 1 and all(end <= other.start or other.stop <= start for other in taken):
            return start
    return None
