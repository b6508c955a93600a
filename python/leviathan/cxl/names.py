"""QEMU's names of bridges, ports and devices, from its object tree: whatever started the machine, this is what runs.

Works with every QEMU that has CXL (7.2, 10.0 and 11.1 were asked).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leviathan.cxl.parse import Names
from leviathan.errors import LeviathanError

__all__ = ["PERIPHERAL", "read_names"]

PERIPHERAL = "/machine/peripheral"

Monitor = Callable[..., Any]
"""``monitor(command, **arguments)``; raises a ``LeviathanError`` where QEMU refuses."""


def read_names(monitor: Monitor) -> Names:
    """Everything of CXL that has a name. Devices without ``id=`` have none."""
    memories: dict[int, str] = {}
    bridges: dict[int, str] = {}
    ports: dict[tuple[str, int], str] = {}
    switches: dict[str, str] = {}
    for item in monitor("qom-list", path=PERIPHERAL):
        name, kind = str(item["name"]), str(item["type"]).removeprefix("child<").removesuffix(">")

        def get(what: str, path: str = f"{PERIPHERAL}/{name}") -> Any:
            return monitor("qom-get", path=path, property=what)

        try:
            match kind:
                case "cxl-type3":
                    memories[int(get("sn"))] = name
                case "pxb-cxl":
                    bridges[int(get("bus_nr"))] = name
                case "cxl-rp" | "cxl-downstream":
                    ports[_parent(get), int(get("port"))] = name
                case "cxl-upstream":
                    switches[_parent(get)] = name
        except (LeviathanError, TypeError, ValueError):
            # A name less in the picture.
            continue
    return Names(memories, bridges, ports, switches)


def _parent(get: Callable[[str], Any]) -> str:
    """The name of the bus that a device is plugged into, which is that of its bridge or port."""
    return str(get("parent_bus")).rpartition("/")[2]
