"""What a run needs before any node starts: QEMU, a kernel, the guest's initramfs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import StartError
from leviathan.launch.programs import bin_dir
from leviathan.model.machine import Machine
from leviathan.qemu.binary import QemuBinary, find_firmware, probe_binary
from leviathan.vm.progress import Progress

__all__ = ["Boot", "Work", "prepare"]


@dataclass(frozen=True, slots=True)
class Work:
    """What the guest is started for."""

    command: str | None = None
    """Run as root by our init; ``None``: a shell on the console."""
    restart_on_reboot: bool = False
    """The guest may reboot (its command runs again); otherwise a reboot, which a kernel panic is too, ends it."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Everything found or built on this machine for one run."""

    qemu: QemuBinary
    kernel: Path
    kernel_release: str
    initrd: bytes


def prepare(machine: Machine, work: Work, progress: Progress) -> Boot:
    """Finds QEMU and the kernel, builds the initramfs. Raises ``StartError``."""
    # Late: unpacking and building images is not needed to print a help page.
    from leviathan.images import guest, kernel
    from leviathan.images.base import ImageError

    with progress.step("looking for QEMU"):
        qemu = probe_binary(machine.qemu)
        find_firmware(qemu)
    with progress.step("building the guest's initramfs"):
        try:
            found = kernel.from_path(machine.kernel) if machine.kernel else kernel.find(progress.note, GUEST_DRIVERS)
            if machine.initrd is not None:
                return Boot(qemu, found.vmlinuz, found.release, _read(machine.initrd))
            lev_guest = bin_dir() / "lev-guest"
            contents = guest.Guest(
                command=work.command,
                add=[machine.add] if machine.add else [],
                programs=[Path(program) for program in machine.programs],
                guest_program=lev_guest if lev_guest.is_file() else None,
            )
            return Boot(qemu, found.vmlinuz, found.release, guest.build(found, contents))
        except (ImageError, kernel.KernelError) as error:
            raise StartError(str(error), hint=error.hint or None) from error


GUEST_DRIVERS = ("virtio_pci", "virtio_console")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read the initramfs {path}: {error.strerror}") from error
