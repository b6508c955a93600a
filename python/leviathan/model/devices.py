"""Devices beside CXL: disks, networks, the display."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from leviathan.model.base import Id, Options, Strict

__all__ = ["Disk", "Display", "Forward", "Network"]


class Disk(Strict):
    """A disk or an optical disc."""

    file: Path
    """The image."""
    name: Id | None = None
    """Left out: disk0, disk1…"""
    format: Literal["auto", "raw", "qcow2", "qcow", "vmdk", "vdi", "vpc", "vhdx"] = "auto"
    """How the image is stored; ``auto``: by its first bytes."""
    interface: Literal["auto", "virtio", "ide", "scsi", "nvme"] = "auto"
    """What the guest sees. ``auto``: virtio; an optical disc is on ide where the machine has it, else on scsi."""
    cdrom: bool = False
    """An optical disc, such as an installer's ISO image."""
    readonly: bool = False
    snapshot: bool = False
    """What the guest writes is dropped when it ends."""
    boot_index: Annotated[int, Field(ge=0)] | None = None
    """Order in which firmware tries to boot; 0 first."""
    options: Options = {}
    """More properties of the guest's device."""
    drive_options: Options = {}
    """More options of QEMU's ``-drive``, such as ``cache``."""


class Forward(Strict):
    """A port of this machine that leads into the guest; written in short as ``"2222:22"`` or ``"udp:5300:53"``."""

    host: Annotated[int, Field(ge=1, le=65535)]
    guest: Annotated[int, Field(ge=1, le=65535)]
    protocol: Literal["tcp", "udp"] = "tcp"
    address: str = "127.0.0.1"
    """Address of this machine to listen on; empty: all of them."""
    guest_address: str = ""


_FORWARD = re.compile(r"(?:(tcp|udp):)?(\d+):(\d+)")


def _forward(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = _FORWARD.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r}: write a forwarded port as HOST:GUEST, such as 2222:22 or udp:5300:53")
    return {"protocol": match[1] or "tcp", "host": int(match[2]), "guest": int(match[3])}


class Network(Strict):
    """A network card and what it is plugged into."""

    name: Id | None = None
    """Left out: net0, net1…"""
    kind: Literal["user", "tap", "bridge"] = "user"
    """``user`` needs no rights: the guest reaches out, and in through ``forward``."""
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "virtio-net-pci"
    """QEMU's name of the card."""
    mac: Annotated[str, Field(pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$")] | None = None
    forward: list[Annotated[Forward, BeforeValidator(_forward, json_schema_input_type=str | Forward)]] = []
    """Ports of this machine that lead into the guest (``user``)."""
    interface: str | None = None
    """The tap interface (``tap``)."""
    bridge: str | None = None
    """The bridge (``bridge``)."""
    options: Options = {}
    """More properties of the guest's card."""
    backend_options: Options = {}
    """More options of QEMU's ``-netdev``."""


class Display(Strict):
    """The guest's screen."""

    vnc: str | None = None
    """Where a VNC server shows it: ``":0"``, or ``"127.0.0.1:1"``."""
    window: Literal["none", "gtk", "sdl", "curses", "spice-app", "egl-headless"] = "none"
    """A window on this machine."""
    adapter: Literal["auto", "none", "std", "virtio", "qxl", "cirrus", "vmware", "ramfb"] = "auto"
    """The graphics card. ``auto``: one that fits the machine if there is somewhere to show it, else none."""
