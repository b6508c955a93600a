"""What the guest's and the lab machine's initramfs have in common: busybox, mounts, kernel modules, programs."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from leviathan.errors import StartError
from leviathan.images.cpio import Archive
from leviathan.images.elf import Closure, ElfError, read_dynamic
from leviathan.images.kernel import Kernel

_FSTAB = """\
proc /proc proc nosuid,noexec,nodev 0 0
sysfs /sys sysfs nosuid,noexec,nodev 0 0
devpts /dev/pts devpts mode=620,ptmxmode=666 0 0
tmpfs /dev/shm tmpfs nosuid,nodev 0 0
tmpfs /run tmpfs nosuid,nodev,mode=755 0 0
tmpfs /tmp tmpfs nosuid,nodev 0 0
"""
_FILES = {
    "etc/passwd": "root::0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost leviathan\n",
    "etc/profile": "PS1='leviathan:\\w# '\n",
}


class ImageError(StartError):
    """An image cannot be made."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


def find_busybox(path: Path | None = None) -> Path:
    """A static busybox: the one named, or the system's."""
    hint = "run: sudo apt-get install busybox-static"
    for candidate in (path,) if path else (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if not candidate.exists():
            continue
        try:
            dynamic = read_dynamic(candidate)
        except ElfError as error:
            raise ImageError(str(error), hint) from error
        if dynamic.interpreter or dynamic.needed:
            raise ImageError(f"{candidate} is not statically linked", hint)
        return candidate
    raise ImageError(f"no busybox at {path or '/bin/busybox'}", hint)


def start(init: str, busybox: Path, *, skeleton: bool = True) -> Archive:
    """An archive with ``/init``, busybox under ``/lev`` and by the names of its applets, mount points, ``/etc``."""
    archive = Archive()
    for name, mode in (("proc", 0o555), ("sys", 0o555), ("root", 0o700), ("tmp", 0o1777), ("run", 0o755)):
        archive.directory(name, mode)
    for name in ("lev/dev/pts", "lev/dev/shm", "lev/modules"):
        archive.directory(name)
    # The kernel's own /dev lacks what udev would add.
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        archive.symlink(f"lev/dev/{name}", f"/proc/self/fd{target}")
    archive.char_device("dev/console", 5, 1)
    archive.char_device("dev/null", 1, 3, 0o666)
    archive.file("lev/busybox", busybox, 0o755)
    archive.file("lev/fstab", _FSTAB.encode())
    archive.file("init", resources.files(__package__).joinpath("init", init).read_bytes(), 0o755)
    for applet in _applets(_runnable(busybox)):
        archive.symlink(applet, "/lev/busybox")
    if skeleton:
        for name, text in _FILES.items():
            archive.file(name, text.encode())
    return archive


def _runnable(busybox: Path) -> Path:
    """One that says its applets: another architecture's cannot run here, but is built the same way."""
    return busybox if read_dynamic(busybox).machine == read_dynamic(Path(sys.executable)).machine else find_busybox()


def _applets(busybox: Path) -> list[str]:
    try:
        done = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise ImageError(f"{busybox} --list-full failed: {error}") from error
    return [name for name in done.stdout.split() if name.rsplit("/", 1)[-1] != "busybox"]


def add_modules(
    archive: Archive,
    kernel: Kernel,
    groups: Mapping[str, Iterable[str]],
    parameters: Mapping[str, str] | None = None,
) -> None:
    """Puts modules under ``/lev/modules`` with one list per group, in load order; a later group relies on the first."""
    given = {name.replace("-", "_"): text for name, text in (parameters or {}).items()}
    for text in given.values():
        if "\n" in text:
            raise ImageError(f"module parameters {text!r} hold a line break")
    first: set[str] = set()
    for group, wanted in groups.items():
        lines = []
        for name, content in kernel.load_order(wanted):
            if name in first:
                continue
            archive.file(f"lev/modules/{name}.ko", content)
            lines.append(f"{name}.ko {given.get(name, '')}".rstrip() + "\n")
            if group == next(iter(groups)):
                first.add(name)
        archive.file(f"lev/modules/{group}", "".join(lines).encode())


def add_programs(archive: Archive, closure: Closure) -> None:
    """Puts programs and their libraries where the loader looks for them."""
    for placed in closure.files():
        archive.file(placed.target, placed.source, stat.S_IMODE(placed.source.stat().st_mode) | 0o555)
