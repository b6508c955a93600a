"""Disks, networks and the display as QEMU's arguments.

Each device names its bus: beside a ``pxb-cxl`` QEMU might otherwise plug it in there, where it does not work.
"""

from __future__ import annotations

from leviathan.model.devices import Disk, Network
from leviathan.model.machine import Machine
from leviathan.qemu.words import escape, option

__all__ = ["INPUT_DEVICES", "device_arguments", "root_bus"]

INPUT_DEVICES = ("-device", "qemu-xhci,bus=pcie.0", "-device", "usb-kbd", "-device", "usb-tablet")
"""Keyboard and pointer beside a display of a machine that has none of its own."""
_ADAPTERS = {"std": "VGA", "qxl": "qxl-vga", "cirrus": "cirrus-vga", "vmware": "vmware-svga"}


def root_bus(machine: Machine) -> str:
    """The bus that devices sit on unless something says otherwise."""
    return "pci.0" if machine.machine_type == "pc" else "pcie.0"


def device_arguments(machine: Machine) -> list[str]:
    """Disks, networks and display of a completed machine."""
    argv = _disks(machine)
    for network in machine.networks:
        argv += _network(network, root_bus(machine))
    return argv + _display(machine)


def _disks(machine: Machine) -> list[str]:
    bus = root_bus(machine)
    argv: list[str] = []
    if any(disk.interface == "scsi" for disk in machine.disks):
        argv += ["-device", f"virtio-scsi-pci,id=scsi,bus={bus}"]
    ide = 0
    for disk in machine.disks:
        properties: dict[str, object | None] = {
            "if": "none",
            "id": disk.name,
            "file": disk.file,
            "format": None if disk.format == "auto" else disk.format,
            "media": "cdrom" if disk.cdrom else None,
            "readonly": True if disk.readonly else None,
            "snapshot": True if disk.snapshot else None,
        }
        argv += option("-drive", "", properties, disk.drive_options)
        place: dict[str, object] = {"bus": "scsi.0" if disk.interface == "scsi" else bus}
        if disk.interface == "ide":
            # q35 has six ports with one unit each; pc has two with two.
            two = machine.machine_type == "pc"
            place = {"bus": f"ide.{ide // 2}", "unit": ide % 2} if two else {"bus": f"ide.{ide}"}
            ide += 1
        argv += _disk_device(disk, place)
    return argv


def _disk_device(disk: Disk, place: dict[str, object]) -> list[str]:
    kind = "cd" if disk.cdrom else "hd"
    driver = {"virtio": "virtio-blk-pci", "ide": f"ide-{kind}", "scsi": f"scsi-{kind}", "nvme": "nvme"}[disk.interface]
    properties: dict[str, object | None] = {"drive": disk.name, "id": f"{disk.name}-device", **place}
    properties["bootindex"] = disk.boot_index
    if disk.interface == "nvme":
        properties["serial"] = disk.name
    return option("-device", driver, properties, disk.options)


def _network(network: Network, bus: str) -> list[str]:
    words = [
        f"{network.kind},id={network.name}",
        *(
            f"hostfwd={forward.protocol}:{forward.address}:{forward.host}-{forward.guest_address}:{forward.guest}"
            for forward in network.forward
        ),
    ]
    if network.interface:
        words += [f"ifname={escape(network.interface)}"]
    if network.kind == "tap" and "script" not in network.backend_options:
        words += ["script=no", "downscript=no"]
    if network.bridge:
        words += [f"br={escape(network.bridge)}"]
    argv = option("-netdev", ",".join(words), {}, network.backend_options)
    properties = {"netdev": network.name, "id": f"{network.name}-device", "bus": bus, "mac": network.mac}
    return argv + option("-device", network.model, properties, network.options)


def _display(machine: Machine) -> list[str]:
    display = machine.display
    argv = ["-display", display.window]
    if display.vnc is not None:
        argv += ["-vnc", display.vnc]
    bus = root_bus(machine)
    match display.adapter:
        case "none" | "auto":
            return argv
        case "ramfb":
            argv += ["-device", "ramfb"]
        case "virtio":
            argv += ["-device", f"{'virtio-gpu-pci' if machine.machine_type == 'virt' else 'virtio-vga'},bus={bus}"]
        case adapter:
            argv += ["-device", f"{_ADAPTERS[adapter]},bus={bus}"]
    if machine.machine_type == "virt":
        argv += INPUT_DEVICES
    return argv
