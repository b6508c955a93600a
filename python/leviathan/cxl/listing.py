"""Memory devices as a table, for ``lev cxl list``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from leviathan.cxl.topology import Memdev, Port, Topology
from leviathan.cxl.words import size

__all__ = ["device_table", "devices_json"]


def _places(port: Port, path: str) -> Iterator[tuple[str, Memdev]]:
    """Every device with the way to it: bridge, port, switch, port."""
    for slot in port.slots:
        here = f"{path} > {slot.id or f'port {slot.number}'}"
        if isinstance(slot.child, Memdev):
            yield here, slot.child
        elif slot.child is not None:
            yield from _places(slot.child, f"{here} > {slot.child.label}")


def places(topology: Topology) -> list[tuple[str, Memdev]]:
    """Devices in the order of bridges and ports; those without a path last."""
    found = [pair for bridge in topology.bridges for pair in _places(bridge, bridge.label)]
    return [*found, *(("nowhere", memdev) for memdev in topology.loose)]


def device_table(topology: Topology) -> Table:
    """For people."""
    table = Table("device", "serial", "guest", box=None, padding=(0, 2))
    for title in ("pmem", "ram"):
        table.add_column(title, justify="right")
    for title in ("where", "part of", "poison"):
        table.add_column(title)
    for where, memdev in places(topology):
        table.add_row(
            memdev.id or "",
            f"{memdev.serial:#x}",
            memdev.name,
            size(memdev.pmem) if memdev.pmem else "",
            size(memdev.ram) if memdev.ram else "",
            where,
            ", ".join(region.name for region in topology.region_of(memdev)),
            str(len(memdev.media_errors) or ""),
        )
    return table


def devices_json(topology: Topology) -> list[dict[str, Any]]:
    """For programs: sizes in bytes."""
    return [
        {
            "name": memdev.id,
            "serial": memdev.serial,
            "memdev": memdev.name,
            "pmem": memdev.pmem,
            "ram": memdev.ram,
            "where": where,
            "regions": [region.name for region in topology.region_of(memdev)],
            "poison": [{"offset": at, "length": n, "source": source} for at, n, source in memdev.media_errors],
        }
        for where, memdev in places(topology)
    ]
