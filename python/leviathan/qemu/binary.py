"""The QEMU at hand: found, run once for its version, and identified by checksum. Nobody changes it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from leviathan.errors import StartError
from leviathan.images.elf import root_of

__all__ = ["QemuBinary", "find_firmware", "find_uefi", "parse_version", "probe_binary"]

OLDEST = (7, 2)
VERSION_SECONDS = 30
INSTALL_HINT = "install it: apt-get install qemu-system-x86"
INSTALL_ARM_HINT = (
    "install it: apt-get install qemu-system-arm qemu-efi-aarch64; "
    "for CXL, which came with QEMU 10.2: lev images get qemu --suite sid --arch arm64"
)
FIRMWARE = "bios-256k.bin"
FIRMWARE_FOLDERS = ("/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu", "/usr/share/qemu-kvm")
UEFI = {
    "x86_64": ("ovmf/OVMF.fd", "qemu/OVMF.fd"),
    "aarch64": ("qemu-efi-aarch64/QEMU_EFI.fd", "edk2/aarch64/QEMU_EFI.fd", "qemu/edk2-aarch64-code.fd"),
}
_VERSION = re.compile(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)([^\n]*)")


@dataclass(frozen=True, slots=True)
class QemuBinary:
    """One QEMU program as its packager made it."""

    path: str
    """What to start."""
    version: tuple[int, int, int]
    banner: str
    """First line of ``--version``, with the packager's revision."""
    sha256: str
    """Of the program."""
    program: str = ""
    """The program itself, if ``path`` is a script that starts it; else the same."""

    @property
    def version_text(self) -> str:
        """The version as ``7.2.22``."""
        return ".".join(map(str, self.version))


def parse_version(output: str) -> tuple[tuple[int, int, int], str]:
    """Version and banner from the output of ``--version``. Raises ``ValueError`` if it is no QEMU's."""
    match = _VERSION.search(output)
    if match is None:
        raise ValueError("no version line of QEMU")
    return (int(match[1]), int(match[2]), int(match[3])), match[0].strip()


def probe_binary(name: str) -> QemuBinary:
    """Finds a QEMU by name or path and runs ``--version``. Raises ``StartError``."""
    found = shutil.which(name)
    if found is None:
        where = "no such program" if "/" in name else "it is not on PATH"
        raise StartError(f"QEMU {name}: {where}", hint=INSTALL_ARM_HINT if "aarch64" in name else INSTALL_HINT)
    path = Path(found).resolve()
    try:
        run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False)
        version, banner = parse_version(run.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"QEMU {path} does not run: {error}") from error
    except ValueError as error:
        said = (run.stderr or run.stdout).strip().splitlines()
        raise StartError(f"{path} is not QEMU: `--version` said: {said[0] if said else 'nothing'}") from error
    if version[:2] < OLDEST:
        raise StartError(
            f"{path} is QEMU {version[0]}.{version[1]}; {OLDEST[0]}.{OLDEST[1]} or newer is needed",
            hint="give another one with --qemu",
        )
    program = _program(path)
    with program.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return QemuBinary(str(path), version, banner, checksum, str(program))


def _program(path: Path) -> Path:
    """The program that a starter script of ``lev images`` starts; a program starts itself."""
    with path.open("rb") as file:
        if file.read(2) != b"#!":
            return path
    from leviathan.images.suite import program_of

    return program_of(path)


def find_firmware(binary: QemuBinary) -> Path:
    """SeaBIOS as QEMU will find it. Raises ``StartError``."""
    beside = Path(binary.program or binary.path).parent.parent / "share"
    for folder in (beside / "seabios", beside / "qemu", *map(Path, FIRMWARE_FOLDERS)):
        if (folder / FIRMWARE).is_file():
            return folder / FIRMWARE
    raise StartError(f"QEMU's firmware {FIRMWARE} is missing", hint="install it: apt-get install seabios")


def find_uefi(arch: str, binary: QemuBinary | None = None) -> Path | None:
    """The UEFI firmware for ``-bios`` unpacked with a QEMU, else the distribution's; ``None`` if there is none."""
    roots = [root_of(Path(binary.program))] if binary is not None and binary.program else []
    places = [root / "usr/share" / name for root in (*roots, Path("/")) for name in UEFI.get(arch, ())]
    return next((path for path in places if path.is_file()), None)
