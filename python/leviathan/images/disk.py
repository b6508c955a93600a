"""Disk images: made, and with a Debian root file system installed into them, unattended and without root.

The packages are unpacked and configured by ``mmdebstrap`` (apt alone, the system's mirror and keyring) into an archive.
A guest of ours then fills the disk from it and makes it bootable: only inside a machine does everything belong to root,
and only there is the disk a device.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import GuestDied, UsageError
from leviathan.images.apt import KEYRINGS, SUITE, host_architecture, mirror
from leviathan.images.disklayout import LAYOUTS, DiskError, fill_script, make_efi, need, partition, run
from leviathan.images.foreign import runs
from leviathan.model.devices import Disk
from leviathan.model.machine import Machine
from leviathan.model.sizes import GIB, format_size
from leviathan.vm.life import Life
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress

__all__ = ["FORMATS", "DiskError", "Install", "create", "install"]

FORMATS = ("raw", "qcow2")
SMALLEST = GIB
"""Of disks with a system on them."""
PACKAGES = ("systemd-sysv", "udev", "initramfs-tools", "iproute2", "kmod")
DRIVERS = (
    *("ext4", "crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_blk", "virtio_scsi"),
    *("ahci", "ata_piix", "ata_generic", "sd_mod", "sr_mod", "nvme"),
)
"""In the initramfs: of every disk that a machine of ours may have. All that a distribution has are 40 MB, which BIOS
reads sector by sector and the kernel unpacks at every boot."""
ONLY_THESE = (
    'mkdir -p "$1"/etc/initramfs-tools/conf.d "$1"/usr/share/initramfs-tools/modules.d; '
    'echo MODULES=list > "$1"/etc/initramfs-tools/conf.d/leviathan; '
    f"printf '%s\\n' {' '.join(DRIVERS)} > \"$1\"/usr/share/initramfs-tools/modules.d/leviathan"
)
"""Before the kernel's package comes, which makes the initramfs. ``$1``: the system's root."""
WITHOUT_AHCI = ("bullseye", "bookworm")
"""Releases whose cloud kernel does not see the disk that ``-hda`` gives to a `q35`."""
BOOTSTRAP_SECONDS = 3600.0
FILL_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Install:
    """A system to install."""

    suite: str
    name: str = "debian"
    """Its host name."""
    packages: tuple[str, ...] = ()
    """Beside the smallest system that boots."""
    architecture: str = "amd64"
    """Of the guest: ``amd64`` or ``arm64``."""

    @property
    def kernel(self) -> str:
        """The package of its kernel: small, but with drivers for every disk that a machine of ours may have."""
        small = self.architecture != "amd64" or self.suite not in WITHOUT_AHCI
        return f"linux-image-{'cloud-' if small else ''}{self.architecture}"


def create(path: Path, size: int, disk_format: str = "raw") -> None:
    """Makes an empty image of ``size`` bytes, sparse. Raises ``UsageError`` for one that exists."""
    if disk_format not in FORMATS:
        raise UsageError(f"--format {disk_format}: known are {', '.join(FORMATS)}")
    _check_absent(path)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}")
    if disk_format == "raw":
        try:
            with path.open("xb") as file:
                file.truncate(size)
        except OSError as error:
            raise DiskError(f"cannot make {path}: {error.strerror}") from error
        return
    need("qemu-img", "qemu-utils")
    run(["qemu-img", "create", "-q", "-f", disk_format, str(path), str(size)], "qemu-img create", 60)


def install(path: Path, size: int, order: Install, progress: Progress, disk_format: str = "raw") -> None:
    """Makes an image with a system that boots from it. Raises a ``LeviathanError``; no image is left behind then."""
    if size < SMALLEST:
        raise UsageError(f"{format_size(size)} is too small for a system", hint=f"give {format_size(SMALLEST)} or more")
    if not SUITE.fullmatch(order.suite):
        raise UsageError(f"--install {order.suite}: not the name of a suite", hint="for example bookworm or trixie")
    _check_absent(path)
    _check_host(order)
    # Found out now, not after minutes of work.
    create(path, size, disk_format)
    path.unlink()
    with tempfile.TemporaryDirectory(prefix=".lev-disk-", dir=path.absolute().parent) as scratch:
        archive, disk = Path(scratch, "root.tar"), Path(scratch, "disk.raw")
        with progress.step(f"installing {order.suite} from its packages"):
            _bootstrap(archive, order)
        create(disk, size)
        partition(disk, size, LAYOUTS[order.architecture])
        if LAYOUTS[order.architecture].efi:
            make_efi(disk, archive, order.architecture)
        _fill(disk, archive, order, progress)
        if disk_format == "raw":
            disk.rename(path)
            return
        with progress.step(f"converting to {disk_format}"):
            words = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, str(disk), str(path)]
            run(words, "qemu-img convert", FILL_SECONDS)


def _check_absent(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} is there already", hint="remove it first, if nothing on it is needed")


def _check_host(order: Install) -> None:
    """All that is missing to make the image, before any work is done."""
    if order.architecture not in LAYOUTS:
        raise UsageError(f"--arch {order.architecture}: known are {', '.join(LAYOUTS)}")
    if host_architecture() != "amd64":
        raise UsageError("a system can be installed on x86-64 machines only, so far")
    need("mmdebstrap", "mmdebstrap")
    need("mke2fs", "e2fsprogs")
    if LAYOUTS[order.architecture].efi:
        need("mformat", "mtools")
    if order.architecture != host_architecture() and not runs(order.architecture):
        raise DiskError(
            f"programs for {order.architecture}, which the installation runs, do not run here",
            hint="run: sudo apt-get install qemu-user-static binfmt-support",
        )


def _bootstrap(archive: Path, order: Install) -> None:
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    signed = f"[signed-by={keyring}] " if keyring else ""
    words = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--architectures={order.architecture}"),
        f"--essential-hook={ONLY_THESE}",
        f"--include={','.join([order.kernel, *PACKAGES, *LAYOUTS[order.architecture].packages, *order.packages])}",
        *(order.suite, str(archive), f"deb {signed}{mirror()} {order.suite} main"),
    ]
    run(words, f"installing {order.suite}", BOOTSTRAP_SECONDS)


def _fill(disk: Path, archive: Path, order: Install, progress: Progress) -> None:
    tar = shutil.which("tar") or "/bin/tar"
    machine = Machine(
        nodes=0,
        cpus=min(os.cpu_count() or 1, 4),
        memory=GIB,
        boot="kernel",
        programs=[Path(tar)],
        disks=[Disk(file=disk, format="raw"), Disk(file=archive, format="raw", readonly=True)],
    )
    script = fill_script(order.architecture, tar, order.name)
    said: list[bytes] = []

    def hear(data: bytes) -> None:
        said.append(data)
        for line in data.decode(errors="replace").splitlines():
            progress.note(line)

    with Life(machine, Work(script), progress=progress, stderr=hear, timeout=FILL_SECONDS) as life:
        life.start()
        ending = life.wait_end()
        life.stop()
    if ending.exit_code or ending.powered_off:
        text = b"".join(said).decode(errors="replace").strip()[-600:]
        raise GuestDied(f"the disk could not be filled (exit code {ending.exit_code}): {text}")
