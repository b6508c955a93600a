"""Disk images: made, and with a Debian root file system installed into them, unattended and without root.

The packages are unpacked and configured by ``mmdebstrap`` (apt alone, the system's mirror and keyring) into an archive.
A guest of ours then fills the disk from it and makes it bootable: only inside a machine does everything belong to root,
and only there is the disk a device.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import GuestDied, StartError, UsageError
from leviathan.images.apt import KEYRINGS, SUITE, host_architecture, mirror
from leviathan.model.devices import Disk
from leviathan.model.machine import Machine
from leviathan.model.sizes import GIB, KIB, MIB, format_size
from leviathan.vm.life import Life
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress

__all__ = ["FORMATS", "DiskError", "Install", "create", "install"]

FORMATS = ("raw", "qcow2")
SMALLEST = GIB
"""Of disks with a system on them."""
SECTOR = 512
FIRST = MIB
"""Where the partition begins; the boot loader lives in front of it."""
LINUX = 0x83
PACKAGES = ("systemd-sysv", "udev", "initramfs-tools", "grub-pc-bin", "grub2-common", "iproute2", "kmod")
BOOTSTRAP_SECONDS = 3600.0
FILL_SECONDS = 1800.0
LABEL = "leviathan-root"

FILL = r"""
set -e
mkdir /mnt
mount -t ext4 /dev/vda1 /mnt
echo 'unpacking the system' >&2
# By its path: the shell takes busybox's own tar otherwise, which knows no extended attributes.
@TAR@ -x --numeric-owner --xattrs --xattrs-include='*' -f /dev/vdb -C /mnt
echo 'LABEL=@LABEL@ / ext4 errors=remount-ro 0 1' > /mnt/etc/fstab
echo '@NAME@' > /mnt/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' '@NAME@' > /mnt/etc/hosts
# A machine to try things in: root without a password, on the consoles only, and logged in on the serial one.
sed -i 's/^root:[^:]*:/root::/' /mnt/etc/shadow
folder=/mnt/etc/systemd/system/serial-getty@ttyS0.service.d
mkdir -p $folder
printf "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %%I 115200 vt220\n" \
    > $folder/leviathan.conf
mkdir -p /mnt/etc/systemd/network /mnt/etc/default
printf '[Match]\nType=ether\n[Network]\nDHCP=yes\n' > /mnt/etc/systemd/network/leviathan.network
cat > /mnt/etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_DISABLE_OS_PROBER=true
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
END
for folder in dev proc sys; do
    mkdir -p /mnt/$folder
    mount -o bind /$folder /mnt/$folder
done
echo 'installing the boot loader' >&2
chroot /mnt systemctl enable systemd-networkd > /dev/null 2>&1 || true
chroot /mnt grub-install --target=i386-pc /dev/vda > /run/grub 2>&1 || { cat /run/grub >&2; exit 1; }
chroot /mnt update-grub > /run/grub 2>&1 || { cat /run/grub >&2; exit 1; }
umount /mnt/dev /mnt/proc /mnt/sys
umount /mnt
"""


class DiskError(StartError):
    """A disk image that cannot be made."""


@dataclass(frozen=True, slots=True)
class Install:
    """A system to install."""

    suite: str
    name: str = "debian"
    """Its host name."""
    packages: tuple[str, ...] = ()
    """Beside the smallest system that boots."""
    kernel: str = "linux-image-cloud-amd64"


def create(path: Path, size: int, disk_format: str = "raw") -> None:
    """Makes an empty image of ``size`` bytes, sparse. Raises ``UsageError`` for one that exists."""
    if disk_format not in FORMATS:
        raise UsageError(f"--format {disk_format}: known are {', '.join(FORMATS)}")
    if path.exists():
        raise UsageError(f"{path} is there already", hint="remove it first, if nothing on it is needed")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}")
    if disk_format == "raw":
        try:
            with path.open("xb") as file:
                file.truncate(size)
        except OSError as error:
            raise DiskError(f"cannot make {path}: {error.strerror}") from error
        return
    _need("qemu-img", "qemu-utils")
    _run(["qemu-img", "create", "-q", "-f", disk_format, str(path), str(size)], "qemu-img create", 60)


def install(path: Path, size: int, order: Install, progress: Progress, disk_format: str = "raw") -> None:
    """Makes an image with a system that boots from it. Raises a ``LeviathanError``; no image is left behind then."""
    if size < SMALLEST:
        raise UsageError(f"{format_size(size)} is too small for a system", hint=f"give {format_size(SMALLEST)} or more")
    if not SUITE.fullmatch(order.suite):
        raise UsageError(f"--install {order.suite}: not the name of a suite", hint="for example bookworm or trixie")
    if host_architecture() != "amd64":
        raise UsageError("a system can be installed on x86-64 machines only, so far")
    _need("mmdebstrap", "mmdebstrap")
    _need("mke2fs", "e2fsprogs")
    # Found out now, not after minutes of work.
    create(path, size, disk_format)
    path.unlink()
    with tempfile.TemporaryDirectory(prefix=".lev-disk-", dir=path.absolute().parent) as scratch:
        archive, disk = Path(scratch, "root.tar"), Path(scratch, "disk.raw")
        with progress.step(f"installing {order.suite} from its packages"):
            _bootstrap(archive, order)
        create(disk, size)
        _partition(disk, size)
        _fill(disk, archive, order, progress)
        if disk_format == "raw":
            disk.rename(path)
            return
        with progress.step(f"converting to {disk_format}"):
            words = ["qemu-img", "convert", "-f", "raw", "-O", disk_format, str(disk), str(path)]
            _run(words, "qemu-img convert", FILL_SECONDS)


def _bootstrap(archive: Path, order: Install) -> None:
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    signed = f"[signed-by={keyring}] " if keyring else ""
    words = [
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"),
        f"--include={','.join([order.kernel, *PACKAGES, *order.packages])}",
        *(order.suite, str(archive), f"deb {signed}{mirror()} {order.suite} main"),
    ]
    _run(words, f"installing {order.suite}", BOOTSTRAP_SECONDS)


def _partition(disk: Path, size: int) -> None:
    """One partition for Linux that can be booted, in the table of old, and a file system on it."""
    first, count = FIRST // SECTOR, (size - FIRST) // SECTOR
    # Cylinders and heads mean nothing any more: the largest say "look at the sector numbers".
    far = b"\xfe\xff\xff"
    entry = bytes([0x80]) + far + bytes([LINUX]) + far + struct.pack("<II", first, min(count, 0xFFFF_FFFF))
    with disk.open("r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")
    # GRUB reads no file systems with these features.
    features = "^metadata_csum_seed,^orphan_file"
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-E", f"offset={FIRST}", "-O", features]
    done = subprocess.run([*words, str(disk), f"{count * SECTOR // KIB}k"], capture_output=True, text=True, check=False)
    if done.returncode and "feature" in done.stderr:
        # An mke2fs from before these features does not know them.
        words = words[:-2]
        done = subprocess.run(
            [*words, str(disk), f"{count * SECTOR // KIB}k"], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise DiskError(f"mke2fs failed: {done.stderr.strip()[-300:]}")


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
    script = FILL.replace("@LABEL@", LABEL).replace("@NAME@", order.name).replace("@TAR@", tar)
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


def _need(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        raise DiskError(f"{tool} is not here", hint=f"run: sudo apt-get install {package}")


def _run(command: Sequence[str], what: str, seconds: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DiskError(f"{what} did not end within {seconds:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()][-6:]
        raise DiskError(f"{what} failed:\n" + "\n".join(f"  | {line}" for line in lines))
