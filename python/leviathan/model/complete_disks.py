"""What disks and networks leave out, filled in."""

from __future__ import annotations

from pathlib import Path

from leviathan.model.devices import Disk, Network
from leviathan.model.machine import Machine

__all__ = ["complete_disks", "complete_networks", "image_format"]

_MAGIC = {b"QFI\xfb": "qcow2", b"KDMV": "vmdk", b"conectix": "vpc", b"vhdxfile": "vhdx"}


def image_format(path: Path) -> str | None:
    """How a disk image is stored, by its first bytes; ``None`` if it cannot be read.

    Without it QEMU guesses, warns, and protects the first sector of raw images.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return None
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "raw")


def complete_disks(machine: Machine) -> list[Disk]:
    """Disks with names, interfaces and, as far as the files are there, formats."""
    taken = {disk.name for disk in machine.disks}
    free = (name for name in (f"disk{number}" for number in range(4096)) if name not in taken)
    result = []
    for disk in machine.disks:
        optical = "scsi" if machine.machine_type == "virt" else "ide"
        result.append(
            disk.model_copy(
                update={
                    "name": disk.name or next(free),
                    "interface": (optical if disk.cdrom else "virtio") if disk.interface == "auto" else disk.interface,
                    "format": image_format(disk.file) or "auto" if disk.format == "auto" else disk.format,
                    "readonly": disk.readonly or disk.cdrom,
                }
            )
        )
    return result


def complete_networks(machine: Machine) -> list[Network]:
    """Networks with names."""
    taken = {network.name for network in machine.networks}
    free = (name for name in (f"net{number}" for number in range(4096)) if name not in taken)
    return [network.model_copy(update={"name": network.name or next(free)}) for network in machine.networks]
