"""Disks, networks, display, serial ports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from leviathan.model.complete_disks import image_format
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = [
    "adapters",
    "disc_architecture",
    "disk_files",
    "disk_formats",
    "disk_places",
    "macs",
    "networks",
    "stdio",
    "vnc",
]

IDE_PORTS = {"q35": 6, "pc": 4, "virt": 0}
ARM_ADAPTERS = {"std", "virtio", "ramfb", "none", "auto"}
_VNC = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]*):\d+(,.*)?|unix:.+|none")
_NAMES = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}


def disk_files(subject: Subject) -> Iterator[Finding]:
    """Images are there, and what one device writes no other one uses (QEMU: ``Failed to get "write" lock``)."""
    users: dict[Path, list[tuple[int, bool]]] = {}
    for number, disk in enumerate(subject.machine.disks):
        field = f"disks.{number}.file"
        if not disk.file.exists():
            remedy = "check the path" if disk.cdrom else f"make it: qemu-img create -f qcow2 {disk.file} 10G"
            yield error("disk-file", field, f"there is no image {disk.file}", remedy)
            continue
        if disk.file.is_dir():
            yield error("disk-file", field, f"{disk.file} is a folder", "name an image in it")
            continue
        writes = not disk.readonly and not disk.snapshot
        if not os.access(disk.file, os.R_OK | (os.W_OK if writes else 0)):
            remedy = "give yourself the rights, or set readonly" if writes else "give yourself the right to read it"
            yield error("disk-file", field, f"{disk.file} cannot be {'written' if writes else 'read'}", remedy)
        others = users.setdefault(disk.file.resolve(), [])
        writer = next((other for other, other_writes in others if other_writes or writes), None)
        if writer is not None:
            problem = f"{disk.file} is already used by disks.{writer}, and one of them writes"
            yield error(
                "disk-file", field, problem, "give each an image of its own, or set readonly or snapshot on all"
            )
        others.append((number, writes))


def disk_formats(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``Image is not in qcow2 format``; the other way round the guest sees a damaged disk."""
    for number, disk in enumerate(subject.given.disks):
        found = image_format(disk.file) if disk.file.is_file() else None
        known = disk.format in ("qcow2", "vhdx") or (disk.format == "raw" and found == "qcow2")
        if found is not None and known and found != disk.format:
            problem = f"{disk.file} is a {found} image, not {disk.format}"
            yield error("disk-format", f"disks.{number}.format", problem, "leave it out")


def disk_places(subject: Subject) -> Iterator[Finding]:
    """Interfaces that the machine has, as many as it has."""
    kind, count = subject.machine.machine_type, 0
    for number, disk in enumerate(subject.machine.disks):
        field = f"disks.{number}.interface"
        if disk.interface == "nvme" and disk.cdrom:
            yield error("disk-place", field, "there are no optical nvme drives", "use 'scsi' or 'ide', or leave it out")
        if disk.interface == "virtio" and disk.cdrom:
            problem = "the guest sees a disk, not an optical drive; installers may not find their packages"
            yield warning("disk-place", field, problem, "leave it out")
        if disk.interface != "ide":
            continue
        if disk.readonly and not disk.cdrom:
            problem = "ide disks cannot be read-only (QEMU: Block node is read-only)"
            yield error("disk-place", field, problem, "use 'virtio' or 'scsi', or snapshot in place of readonly")
        count += 1
        if not IDE_PORTS[kind]:
            yield error("disk-place", field, f"{kind} has no ide", "use 'virtio' or 'scsi', or leave it out")
        elif count > IDE_PORTS[kind]:
            yield error("disk-place", field, f"{kind} has {IDE_PORTS[kind]} ide ports, all taken", "use 'virtio'")


def disc_architecture(subject: Subject) -> Iterator[Finding]:
    """An installer for another architecture: firmware skips it and says that nothing boots."""
    for number, disk in enumerate(subject.machine.disks):
        if not disk.cdrom:
            continue
        for arch, names in _NAMES.items():
            if arch != subject.machine.arch and any(name in disk.file.name.lower() for name in names):
                problem = f"{disk.file.name} looks like an image for {names[0]}; the machine is {subject.machine.arch}"
                remedy = f"use the image for {_NAMES[subject.machine.arch][0]}"
                yield warning("disc-architecture", f"disks.{number}.file", problem, remedy)


def networks(subject: Subject) -> Iterator[Finding]:
    """Fields of one kind of network on another; ports of this machine given away twice."""
    ports: dict[tuple[str, int], str] = {}
    for number, network in enumerate(subject.machine.networks):
        field = f"networks.{number}"
        for name, kind in (("forward", "user"), ("interface", "tap"), ("bridge", "bridge")):
            if getattr(network, name) and network.kind != kind:
                problem = f"is for networks of kind {kind!r}, and this is {network.kind!r}"
                yield error("network", f"{field}.{name}", problem, f"leave it out, or kind = {kind!r}")
        for index, forward in enumerate(network.forward):
            key = (forward.protocol, forward.host)
            if key in ports:
                problem = f"port {forward.host} is already forwarded by {ports[key]}"
                yield error("network", f"{field}.forward.{index}", problem, "use another port of this machine")
            ports.setdefault(key, f"{field}.forward.{index}")


def macs(subject: Subject) -> Iterator[Finding]:
    """A card's address is its own and no group's."""
    seen: dict[str, int] = {}
    for number, network in enumerate(subject.machine.networks):
        if network.mac is None:
            continue
        field, mac = f"networks.{number}.mac", network.mac.lower()
        if int(mac[:2], 16) & 1:
            yield error("mac", field, f"{mac} is a group's address", "let it begin with 52:54:00")
        if mac in seen:
            yield error("mac", field, f"networks.{seen[mac]} has it, too", "give each card its own")
        seen.setdefault(mac, number)


def vnc(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``vnc: address '5900' is not a valid address``-like errors; ``:0`` means TCP port 5900."""
    text = subject.machine.display.vnc
    if text is not None and _VNC.fullmatch(text) is None:
        remedy = 'write a display number, such as ":0" (TCP port 5900), or "127.0.0.1:1"'
        yield error("vnc", "display.vnc", f"{text!r} is no place for a VNC server", remedy)


def adapters(subject: Subject) -> Iterator[Finding]:
    """A screen without a card stays dark; some cards are PCs' alone."""
    display, kind = subject.machine.display, subject.machine.machine_type
    shown = display.vnc is not None or display.window != "none"
    if shown and subject.given.display.adapter == "none" and not subject.machine.default_devices:
        yield warning("adapter", "display.adapter", "without a graphics card the screen stays dark", "leave it out")
    if kind == "virt" and display.adapter not in ARM_ADAPTERS:
        yield error("adapter", "display.adapter", f"{kind} has no {display.adapter}", "use 'virtio', or leave it out")


def stdio(subject: Subject) -> Iterator[Finding]:
    """QEMU: ``cannot use stdio by multiple character devices``."""
    users: list[str] = []
    machine = subject.machine
    for field, values in (("serial", machine.serial or []), ("monitor", machine.monitor), ("qmp", machine.qmp)):
        for number, value in enumerate(values):
            if value in ("stdio", "mon:stdio", "chardev:stdio"):
                users.append(f"{field}.{number}")
    if len(users) > 1 and not all(_muxed(subject, user) for user in users):
        problem = f"standard input and output already belong to {users[0]}"
        yield error("stdio", users[1], problem, 'use another place, such as "vc" or "unix:/path,server,nowait"')


def _muxed(subject: Subject, user: str) -> bool:
    field, _, number = user.partition(".")
    return bool(getattr(subject.machine, field)[int(number)] == "mon:stdio")
