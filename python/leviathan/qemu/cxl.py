"""CXL as QEMU's arguments, in the syntax of the QEMU at hand."""

from __future__ import annotations

from leviathan.model.cxl import Backing, Cxl, CxlMemory
from leviathan.model.sizes import format_size
from leviathan.qemu.facts import QemuFacts
from leviathan.qemu.words import join, option

__all__ = ["backend_arguments", "cxl_arguments", "memory_device"]

_DRIVERS = {"file": "memory-backend-file", "ram": "memory-backend-ram", "memfd": "memory-backend-memfd"}


def backend_arguments(backing: Backing) -> list[str]:
    """``-object memory-backend-…`` of one completed backing."""
    properties = {
        "id": backing.name,
        "share": backing.shared,
        "mem-path": backing.file if backing.kind == "file" else None,
        "size": format_size(backing.size),
    }
    return option("-object", _DRIVERS[backing.kind or "ram"], properties, backing.options)


def memory_device(device: CxlMemory, facts: QemuFacts) -> str:
    """The value of ``-device`` of a completed memory device."""
    # 7.2 knows persistent memory only, and calls its backend `memdev`.
    persistent = "persistent-memdev" if facts.has("cxl-type3", "persistent-memdev") else "memdev"
    properties = {
        "bus": device.port,
        persistent: device.persistent and device.persistent.name,
        "volatile-memdev": device.volatile and device.volatile.name,
        "volatile-dc-memdev": device.dynamic and device.dynamic.name,
        "num-dc-regions": device.dynamic_regions if device.dynamic else None,
        "lsa": device.labels and device.labels.name,
        "id": device.name,
        "sn": None if device.serial is None else hex(device.serial),
    }
    return join("cxl-type3", properties, device.options)


def _topology(cxl: Cxl, facts: QemuFacts) -> list[str]:
    argv: list[str] = []
    can_decode = facts.has("pxb-cxl", "hdm_for_passthrough")
    for bridge in cxl.host_bridges or []:
        decoders = bridge.hdm_for_passthrough if bridge.hdm_for_passthrough is not None else True
        properties: dict[str, object | None] = {
            "bus_nr": bridge.bus,
            "bus": "pcie.0",
            "id": bridge.name,
            "numa_node": bridge.numa_node,
            "hdm_for_passthrough": decoders if can_decode else None,
        }
        argv += option("-device", "pxb-cxl", properties, bridge.options)
        for port in bridge.root_ports or []:
            properties = {"port": port.port, "bus": bridge.name, "id": port.name}
            properties |= {"chassis": port.chassis, "slot": port.slot}
            argv += option("-device", "cxl-rp", properties, port.options)
    for switch in cxl.switches:
        properties = {"bus": switch.root_port, "id": switch.name}
        properties["sn"] = None if switch.serial is None else hex(switch.serial)
        argv += option("-device", "cxl-upstream", properties, switch.options)
        for below in switch.ports:
            properties = {"port": below.port, "bus": switch.name, "id": below.name}
            properties |= {"chassis": below.chassis, "slot": below.slot}
            argv += option("-device", "cxl-downstream", properties, below.options)
    return argv


def _windows(cxl: Cxl) -> list[str]:
    """All windows in one ``-machine``: QEMU takes their keys together or not at all."""
    keys: dict[str, object] = {}
    for number, window in enumerate(cxl.windows or []):
        for index, target in enumerate(window.targets):
            keys[f"cxl-fmw.{number}.targets.{index}"] = target
        if window.size is not None:
            keys[f"cxl-fmw.{number}.size"] = format_size(window.size)
        if window.granularity is not None:
            keys[f"cxl-fmw.{number}.interleave-granularity"] = format_size(window.granularity)
    return option("-machine", "", keys) if keys else []


def cxl_arguments(cxl: Cxl, facts: QemuFacts) -> list[str]:
    """Everything but ``cxl=on`` of a completed topology: backends, bridges, ports, devices, windows."""
    argv: list[str] = []
    for device in cxl.memory:
        for _, backing in device.backings():
            argv += backend_arguments(backing)
    argv += _topology(cxl, facts)
    for device in cxl.memory:
        argv += ["-device", memory_device(device, facts)]
    return argv + _windows(cxl)
