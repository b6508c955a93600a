"""What the guest boots from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from leviathan.model.devices import Disk
from leviathan.rules.finding import Finding, error, warning
from leviathan.rules.subject import Subject

__all__ = ["boot_files", "boot_source", "bootable", "firmware_files", "uefi"]

SMALLEST_SYSTEM = 1 << 20
"""Bytes that an image holds at least once something was installed into it."""


def _missing(field: str, file: Path, remedy: str) -> Iterator[Finding]:
    if not file.exists():
        yield error("boot-files", field, f"there is no file {file}", remedy)
    elif not file.is_file():
        yield error("boot-files", field, f"{file} is no file", remedy)
    elif not os.access(file, os.R_OK):
        yield error("boot-files", field, f"{file} cannot be read", "give yourself the right to read it")


def boot_files(subject: Subject) -> Iterator[Finding]:
    """Kernel and initramfs are there."""
    machine = subject.machine
    if machine.boot == "kernel" and machine.kernel is not None:
        yield from _missing("kernel", machine.kernel, "name a bzImage or Image, or leave it out")
    if machine.boot == "kernel" and machine.initrd is not None:
        yield from _missing("initrd", machine.initrd, "name an initramfs, or leave it out")


def firmware_files(subject: Subject) -> Iterator[Finding]:
    """Firmware is there, and its variables are a file of the machine's own."""
    machine = subject.machine
    if machine.firmware is not None:
        yield from _missing("firmware", machine.firmware, "install it: apt-get install ovmf, or qemu-efi-aarch64")
    if machine.firmware_variables is not None:
        if machine.firmware is None:
            problem = "variables without the firmware that uses them"
            yield error("firmware", "firmware_variables", problem, "give firmware, too")
        yield from _missing(
            "firmware_variables", machine.firmware_variables, "copy the firmware's template of variables"
        )


def uefi(subject: Subject) -> Iterator[Finding]:
    """Without firmware ``virt`` has no ACPI tables, hence no CEDT and no CXL."""
    machine, qemu = subject.machine, subject.qemu
    needed = machine.cxl is not None or machine.boot == "firmware"
    if machine.arch == "aarch64" and needed and machine.firmware is None and qemu is not None and qemu.firmware is None:
        problem = "aarch64 needs UEFI firmware for this, and none is installed"
        remedy = "install it: apt-get install qemu-efi-aarch64, or name a QEMU_EFI.fd"
        yield error("uefi", "firmware", problem, remedy)


def boot_source(subject: Subject) -> Iterator[Finding]:
    """There is something to boot."""
    given, machine = subject.given, subject.machine
    if machine.boot == "firmware" and not machine.disks and not machine.networks:
        problem = "firmware has nothing to boot from: there is no disk"
        yield error("boot-source", "boot", problem, "describe one under disks, or leave boot out")
    if given.boot == "firmware" and given.kernel is not None:
        problem = "firmware boots from a disk, the kernel would not be used"
        yield error("boot-source", "kernel", problem, "leave it out, or boot = 'kernel'")
    if machine.boot == "firmware" and given.kernel is None and given.append:
        problem = "without a kernel these words go nowhere"
        yield error("boot-source", "append", problem, "give a kernel, or leave append out")


def _empty(disk: Disk) -> bool:
    """Whether a disk surely holds no system."""
    try:
        with disk.file.open("rb") as file:
            start = file.read(512)
            if disk.format == "raw":
                return start[510:512] != b"\x55\xaa"
            return os.fstat(file.fileno()).st_blocks * 512 < SMALLEST_SYSTEM
    except OSError:
        return False


def bootable(subject: Subject) -> Iterator[Finding]:
    """``No bootable device``: the image was never installed."""
    machine = subject.machine
    if machine.boot != "firmware" or not machine.disks or any(disk.cdrom for disk in machine.disks):
        return
    if all(disk.file.is_file() and _empty(disk) for disk in machine.disks):
        problem = "no system is installed on any disk: firmware will say `No bootable device`"
        remedy = "add the installer's image as a disk with cdrom = true"
        yield warning("bootable", "disks", problem, remedy)
