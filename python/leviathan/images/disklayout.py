"""How a disk with a system is laid out, by the guest's architecture: partitions, boot loader, first configuration.

x86-64 boots by BIOS: GRUB lies in front of the first partition, put there by its own installer inside a guest.
AArch64 boots by UEFI: a small second partition holds GRUB as one file, at the path where firmware looks on any disk.
In both the first partition is the system's root.
"""

from __future__ import annotations

import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from leviathan.errors import StartError
from leviathan.images.handed import GRUB_SCRIPT, GRUB_VARIABLE, LATE_CPUS, LATE_CPUS_UNIT
from leviathan.model.sizes import KIB, MIB

__all__ = ["LABEL", "LAYOUTS", "DiskError", "Layout", "fill_script", "make_efi", "need", "partition", "run"]

SECTOR = 512
FIRST = MIB
"""Where partitions begin; BIOS's boot loader lives in front of it."""
LINUX, EFI = 0x83, 0xEF
LABEL = "leviathan-root"
SHORT_SECONDS = 600.0


class DiskError(StartError):
    """A disk image that cannot be made."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What an architecture needs."""

    efi: int
    """Bytes of the UEFI partition; 0: BIOS."""
    packages: tuple[str, ...]
    """The boot loader's."""
    console: str
    """The serial port."""


LAYOUTS = {
    "amd64": Layout(0, ("grub-pc-bin", "grub2-common"), "ttyS0"),
    "arm64": Layout(64 * MIB, ("grub-efi-arm64-bin",), "ttyAMA0"),
}
LOADERS = {"arm64": ("./usr/lib/grub/arm64-efi/monolithic/grubaa64.efi", "BOOTAA64.EFI")}
"""GRUB as one file, in its package; and the name by which firmware finds it."""
GRUB_EFI = """\
search --no-floppy --label --set=root @LABEL@
linux /vmlinuz root=LABEL=@LABEL@ console=tty0 console=@CONSOLE@,115200
initrd /initrd.img
boot
"""
"""``/vmlinuz`` and ``/initrd.img`` are links that Debian's kernel packages keep to the newest kernel."""

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
folder=/mnt/etc/systemd/system/serial-getty@@CONSOLE@.service.d
mkdir -p $folder
printf "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear %%I 115200 vt220\n" \
    > $folder/leviathan.conf
mkdir -p /mnt/etc/systemd/network
printf '[Match]\nType=ether\n[Network]\nDHCP=yes\n' > /mnt/etc/systemd/network/leviathan.network
# As `systemctl enable systemd-networkd` does, which may be a program of another architecture.
folder=/mnt/etc/systemd/system/multi-user.target.wants
mkdir -p $folder
ln -sf /lib/systemd/system/systemd-networkd.service $folder
cat > /mnt/etc/systemd/system/@UNIT@ <<'END'
@LATE_CPUS@END
ln -sf /etc/systemd/system/@UNIT@ $folder
"""
BIOS = r"""
mkdir -p /mnt/etc/default
cat > /mnt/etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_DISABLE_OS_PROBER=true
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=@CONSOLE@,115200 \$@VARIABLE@"
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --speed=115200"
END
cat > /mnt/etc/grub.d/00_a_leviathan <<'OUTER'
#!/bin/sh
cat <<'END'
@GRUB@END
OUTER
chmod 755 /mnt/etc/grub.d/00_a_leviathan
for folder in dev proc sys; do
    mkdir -p /mnt/$folder
    mount -o bind /$folder /mnt/$folder
done
echo 'installing the boot loader' >&2
# GRUB names the root by its UUID, whatever the disk is called, only where udev has made this link.
mkdir -p /dev/disk/by-uuid
ln -sf /dev/vda1 "/dev/disk/by-uuid/$(chroot /mnt grub-probe -d -t fs_uuid /dev/vda1)"
chroot /mnt grub-install --target=i386-pc /dev/vda > /run/grub 2>&1 || { cat /run/grub >&2; exit 1; }
chroot /mnt update-grub > /run/grub 2>&1 || { cat /run/grub >&2; exit 1; }
umount /mnt/dev /mnt/proc /mnt/sys
"""
LEAVE = "umount /mnt\n"


def fill_script(architecture: str, tar: str, name: str) -> str:
    """What a guest runs to fill the disk: ``/dev/vda`` is the disk, ``/dev/vdb`` the archive of the system."""
    layout = LAYOUTS[architecture]
    script = FILL + ("" if layout.efi else BIOS) + LEAVE
    words = {"TAR": tar, "NAME": name, "LABEL": LABEL, "CONSOLE": layout.console, "VARIABLE": GRUB_VARIABLE}
    words |= {"GRUB": GRUB_SCRIPT, "UNIT": LATE_CPUS_UNIT, "LATE_CPUS": LATE_CPUS}
    for word, text in words.items():
        script = script.replace(f"@{word}@", text)
    return script


def partition(disk: Path, size: int, layout: Layout) -> None:
    """A table of the old kind, which both BIOS and UEFI read, and the root's file system."""
    first = (FIRST + layout.efi) // SECTOR
    count = size // SECTOR - first
    table = _entry(LINUX, first, count, active=not layout.efi)
    table += _entry(EFI, FIRST // SECTOR, layout.efi // SECTOR) if layout.efi else bytes(16)
    with disk.open("r+b") as file:
        file.seek(446)
        file.write(table + bytes(32) + b"\x55\xaa")
    _make_ext4(disk, first * SECTOR, count * SECTOR)


def _entry(kind: int, first: int, count: int, *, active: bool = False) -> bytes:
    # Cylinders and heads mean nothing any more: the largest say "look at the sector numbers".
    far = b"\xfe\xff\xff"
    flag = bytes([0x80 if active else 0])
    return flag + far + bytes([kind]) + far + struct.pack("<II", first, min(count, 0xFFFF_FFFF))


def _make_ext4(disk: Path, offset: int, size: int) -> None:
    # GRUB reads no file systems with these features.
    features = ["-O", "^metadata_csum_seed,^orphan_file"]
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-E", f"offset={offset}"]
    place = [str(disk), f"{size // KIB}k"]
    done = subprocess.run([*words, *features, *place], capture_output=True, text=True, check=False)
    if done.returncode and "feature" in done.stderr:
        # An mke2fs from before these features does not know them.
        done = subprocess.run([*words, *place], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"mke2fs failed: {done.stderr.strip()[-300:]}")


def make_efi(disk: Path, archive: Path, architecture: str) -> None:
    """Fills the UEFI partition: GRUB out of the system's own package, and its few lines of configuration."""
    layout, (inside, name) = LAYOUTS[architecture], LOADERS[architecture]
    place = f"{disk}@@{FIRST}"
    with tempfile.TemporaryDirectory(prefix=".lev-efi-", dir=disk.parent) as folder:
        loader, config = Path(folder, name), Path(folder, "grub.cfg")
        with tarfile.open(archive) as tar:
            found = tar.extractfile(inside) if inside in tar.getnames() else None
            if found is None:
                raise DiskError(
                    f"the system has no {inside}", hint="another suite: its boot loader is packed otherwise"
                )
            loader.write_bytes(found.read())
        config.write_text(GRUB_EFI.replace("@LABEL@", LABEL).replace("@CONSOLE@", layout.console))
        sectors = str(layout.efi // SECTOR)
        for words in (
            ["mformat", "-i", place, "-F", "-T", sectors, "-h", "255", "-s", "63", "::"],
            ["mmd", "-i", place, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"],
            ["mcopy", "-i", place, str(loader), "::/EFI/BOOT"],
            ["mcopy", "-i", place, str(config), "::/EFI/debian"],
        ):
            run(words, words[0], SHORT_SECONDS)


def need(tool: str, package: str) -> None:
    """Raises ``DiskError`` with the package that has a tool, if it is not here."""
    if which(tool) is None:
        raise DiskError(f"{tool} is not here", hint=f"run: sudo apt-get install {package}")


def run(command: Sequence[str], what: str, seconds: float) -> None:
    """Runs a tool to its end. Raises ``DiskError`` with its last lines."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DiskError(f"{what} did not end within {seconds:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()][-6:]
        raise DiskError(f"{what} failed:\n" + "\n".join(f"  | {line}" for line in lines))
