"""The guest's initramfs: busybox, the drivers it may need, the user's files, and what to run.

With a command, the guest reports on three virtio-serial ports: ``org.leviathan.stdout`` and ``.stderr`` carry the
command's bytes as they are, ``.status`` carries lines: ``ready UPTIME`` when user space is up, ``exit CODE`` when the
command ended and its output was handed over; then the guest powers off. No ``exit`` line: the command itself switched
the machine off, or it crashed. After a ``reboot`` in the command the guest boots anew and runs the command again (it
keeps no state). Without a command: a root shell on the console, power-off when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan.images import base, cxl
from leviathan.images.base import ImageError
from leviathan.images.cpio import Archive, CpioError
from leviathan.images.elf import Closure, ElfError
from leviathan.images.kernel import Kernel

PORT_STDOUT = "org.leviathan.stdout"
PORT_STDERR = "org.leviathan.stderr"
PORT_STATUS = "org.leviathan.status"

_RESERVED = ("init", "lev")


@dataclass(frozen=True, slots=True)
class Guest:
    """What goes into the image."""

    command: str | None = None
    """Run with ``sh`` as root; ``None``: a shell on the console."""
    add: Sequence[Path] = ()
    """Folders whose contents are merged into the guest's root, later ones over earlier ones."""
    programs: Sequence[Path] = ()
    """Programs of this system to bring along, with their libraries."""
    modules: Sequence[str] = ()
    """Kernel modules to load beside virtio's."""
    guest_program: Path | None = None
    """``lev-guest``, static; becomes ``/usr/bin/lev-guest``."""
    busybox: Path | None = None
    """A static busybox; ``None``: the system's."""
    cxl_tools: Path | None = None
    """A tree with the tools of ``images.cxl``; with it the guest has CXL's drivers, too."""


def build(kernel: Kernel, guest: Guest) -> bytes:
    """The initramfs. Raises ``ImageError`` or ``KernelError``, both with a hint."""
    archive = base.start("guest.sh", base.find_busybox(guest.busybox))
    groups = {
        "base": ["virtio_pci"],
        "serial": ["virtio_console"],
        "net": ["virtio_net"],
        "block": ["virtio_blk"],
        "extra": list(guest.modules),
    }
    if guest.cxl_tools is not None:
        groups["cxl"] = cxl.drivers(kernel)
    base.add_modules(archive, kernel, groups)
    closure = Closure()
    try:
        if guest.cxl_tools is not None:
            for name in cxl.PROGRAMS:
                closure.add(guest.cxl_tools / name, f"/{name}", guest.cxl_tools)
        for program in guest.programs:
            closure.add(program)
        if guest.guest_program is not None:
            closure.add(guest.guest_program, "/usr/bin/lev-guest", Path("/"))
    except ElfError as error:
        raise ImageError(str(error)) from error
    base.add_programs(archive, closure)
    for folder in guest.add:
        _merge(archive, folder)
    if guest.command is not None:
        archive.file("lev/exec", guest.command.encode() + b"\n")
    return archive.bytes()


def _merge(archive: Archive, folder: Path) -> None:
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder", "--add takes a folder whose contents go into the guest's root")
    for name in _RESERVED:
        if (folder / name).is_symlink() or (folder / name).exists():
            raise ImageError(f"{folder / name} would replace the guest's own /{name}", "rename it")
    try:
        archive.tree(folder)
    except (CpioError, OSError) as error:
        raise ImageError(f"cannot add {folder}: {error}") from error
