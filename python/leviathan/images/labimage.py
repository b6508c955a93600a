"""The initramfs of a lab machine: KVM, the agent, our node programs, a QEMU with its libraries and firmware."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leviathan.images import base
from leviathan.images.base import ImageError
from leviathan.images.cpio import Archive, CpioError
from leviathan.images.elf import Closure, ElfError, root_of
from leviathan.images.kernel import Kernel

BIN_DIR = "/usr/lib/leviathan"
"""Folder in the lab machine that holds ``lev-node`` and ``liblev_facade.so``."""
MODULES = ("virtio_pci", "virtio_console", "virtio_net", "virtio_blk", "irqbypass", "kvm", "kvm_amd")
NODE_FILES = ("lev-node", "liblev_facade.so")

_FIRMWARE_DIRS = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu", "usr/local/share/qemu", "share/qemu")
_FIRMWARE = (
    "bios-256k.bin",
    "bios.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
    "vgabios-stdvga.bin",
    "vgabios-virtio.bin",
    "efi-virtio.rom",
    "efi-e1000e.rom",
    "efi-e1000.rom",
    "vgabios-qxl.bin",
    # Of a VNC server, without which it does not start.
    "keymaps/en-us",
)
_NEEDED_FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin")


@dataclass(frozen=True, slots=True)
class LabImage:
    """What goes into the image."""

    agent: Path
    """``lev-agent``."""
    bin_dir: Path
    """Folder that holds the programs of a node; those of ``NODE_FILES`` that are there are taken."""
    qemu: Path | None
    """The QEMU that nodes run, at its path below the root it was unpacked into; ``None``: none."""
    module_parameters: Mapping[str, str] = field(default_factory=dict)
    """``{"kvm_amd": "npt=0"}``."""
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    """More files by their absolute path in the machine; those that can be executed here can be there."""
    programs: tuple[Path, ...] = ()
    """More programs of this system, with their libraries."""
    busybox: Path | None = None
    modules: Sequence[str] = ()
    """More drivers, loaded after our own."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image, and where things are in it."""

    archive: Archive
    qemu: str | None


def build(kernel: Kernel, image: LabImage) -> Built:
    """Puts the image together; nothing is read from large files until it is written out."""
    if not kernel.has("kvm_amd"):
        raise ImageError(f"kernel {kernel.release} has no kvm_amd", "the lab needs a kernel with KVM for AMD")
    archive = base.start("lab.sh", base.find_busybox(image.busybox))
    base.add_modules(archive, kernel, {"base": (*MODULES, *image.modules)}, image.module_parameters)
    closure = Closure()
    qemu = None
    try:
        if image.qemu is not None:
            qemu = closure.add(image.qemu.resolve())
        closure.add(image.agent, "/lev/agent", Path("/"))
        for name in NODE_FILES:
            if (image.bin_dir / name).exists():
                closure.add(image.bin_dir / name, f"{BIN_DIR}/{name}", Path("/"))
        for program in image.programs:
            closure.add(program)
    except ElfError as error:
        raise ImageError(str(error)) from error
    base.add_programs(archive, closure)
    if image.qemu is not None:
        _add_firmware(archive, root_of(image.qemu.resolve()))
    try:
        for target, data in image.files.items():
            runs = isinstance(data, Path) and os.access(data, os.X_OK)
            archive.file(target, data, 0o755 if runs else 0o644)
    except CpioError as error:
        raise ImageError(str(error)) from error
    return Built(archive, qemu)


def _add_firmware(archive: Archive, root: Path) -> None:
    """Firmware at the same paths as beside that QEMU, else at the system's."""
    missing = []
    for name in _FIRMWARE:
        for base_dir in dict.fromkeys((root, Path("/"))):
            places = [base_dir / folder / name for folder in _FIRMWARE_DIRS]
            found = next((place for place in places if place.exists()), None)
            if found is not None:
                archive.file(str(found.relative_to(base_dir)), found.resolve())
                break
        else:
            missing += [name] if name in _NEEDED_FIRMWARE else []
    if missing:
        raise ImageError(
            f"QEMU's firmware {', '.join(missing)} is in none of {', '.join(_FIRMWARE_DIRS)} below {root}",
            "run: sudo apt-get install qemu-system-data seabios",
        )
