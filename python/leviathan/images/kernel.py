"""Kernels to boot: one that is installed, or the distribution's package fetched into the user's cache, without root."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from leviathan.errors import StartError

Progress = Callable[[str], None]
"""Called with the name of a step as it begins."""

META_PACKAGE = "linux-image-cloud-amd64"
_APT_LIMIT = 600.0


class KernelError(StartError):
    """No kernel, or one that lacks what is wanted."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


@dataclass(frozen=True)
class Kernel:
    """A kernel image with the folder of its modules (``…/lib/modules/RELEASE``)."""

    vmlinuz: Path
    modules: Path | None
    release: str
    _index: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)
    _builtin: set[str] = field(default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.modules is None:
            return
        for path in sorted((self.modules / "kernel").rglob("*.ko*")):
            self._index.setdefault(module_name(path.name), path)
        builtin = self.modules / "modules.builtin"
        if builtin.exists():
            self._builtin.update(module_name(os.path.basename(line)) for line in builtin.read_text().split())

    def has(self, module: str) -> bool:
        """Whether a driver is there, as a module or built in."""
        name = module_name(module)
        return name in self._index or name in self._builtin

    def load_order(self, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
        """Names and contents of the wanted modules and all that they need, each after its needs.

        What is built in is left out. Raises ``KernelError`` for one that is nowhere.
        """
        order: dict[str, bytes] = {}

        def visit(name: str, chain: tuple[str, ...]) -> None:
            if name in order or name in chain or (name in self._builtin and name not in self._index):
                return
            path = self._index.get(name)
            if path is None:
                user = f" (needed by {chain[-1]})" if chain else ""
                raise KernelError(
                    f"kernel {self.release} has no {name}{user}, neither as a module nor built in",
                    f"choose another kernel with --kernel, or install {META_PACKAGE}",
                )
            content = decompress(path)
            for need in dependencies(content):
                visit(need, (*chain, name))
            order[name] = content

        for module in wanted:
            visit(module_name(module), ())
        return list(order.items())


def module_name(text: str) -> str:
    """``virtio-rng.ko.xz`` -> ``virtio_rng``, the kernel's own name of a module."""
    return text.split(".ko", 1)[0].replace("-", "_")


def decompress(path: Path) -> bytes:
    """A module's contents, whatever it is packed with."""
    packed = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(packed)
    if path.suffix == ".zst":
        zstd = shutil.which("zstd")
        if zstd is None:
            raise KernelError(f"{path.name} is packed with zstd", "install the package zstd")
        return subprocess.run([zstd, "-dcq"], input=packed, capture_output=True, check=True).stdout
    if path.suffix == ".gz":
        return gzip.decompress(packed)
    return packed


def dependencies(module: bytes) -> list[str]:
    """Modules that this one needs, from its ``.modinfo`` (packages come without ``modules.dep``)."""
    names: list[str] = []
    for match in re.finditer(rb"\0depends=([^\0]*)\0", _modinfo(module)):
        names += [module_name(name) for name in match[1].decode().split(",") if name]
    return names


def _modinfo(module: bytes) -> bytes:
    """The section ``.modinfo`` of a module, with a zero byte before and behind."""
    try:
        if module[:5] != b"\x7fELF\x02":
            raise KernelError("a module is not a 64-bit ELF file")
        (table,) = struct.unpack_from("<Q", module, 40)
        size, count, names = struct.unpack_from("<HHH", module, 58)
        headers = [struct.unpack_from("<I20xQQ", module, table + i * size) for i in range(count)]
        strings = headers[names][1]
        for name, offset, length in headers:
            if module.startswith(b".modinfo\0", strings + name):
                return b"\0" + module[offset : offset + length] + b"\0"
    except (struct.error, IndexError, OverflowError) as error:
        raise KernelError(f"a module is damaged: {error}") from error
    return b"\0"


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/leviathan``, made if missing."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base, "leviathan")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make {path}: {error.strerror}", "set XDG_CACHE_HOME to a folder of yours") from error
    return path


def from_path(vmlinuz: Path, modules: Path | None = None) -> Kernel:
    """The kernel in a file of the user's; its modules in ``modules``, beside it, or installed."""
    if modules is None and (vmlinuz.parent / "kernel").is_dir():
        return Kernel(vmlinuz, vmlinuz.parent, vmlinuz.parent.name)
    release = _named_release(vmlinuz) or release_of(vmlinuz)
    beside = [vmlinuz.parent.parent / folder / release for folder in ("lib/modules", "usr/lib/modules")]
    places = [modules] if modules else [*beside, Path("/lib/modules", release)]
    found = next((place for place in places if (place / "kernel").is_dir()), None)
    if modules and found is None:
        raise KernelError(f"{modules} has no folder named kernel")
    return Kernel(vmlinuz, found, release)


def _named_release(vmlinuz: Path) -> str | None:
    """The release in the name of an unpacked package's image: other architectures' images do not hold it plainly."""
    release = vmlinuz.name.removeprefix("vmlinuz-")
    root = vmlinuz.parent.parent
    known = any((root / folder / release / "kernel").is_dir() for folder in ("lib/modules", "usr/lib/modules"))
    return release if release != vmlinuz.name and known else None


def release_of(vmlinuz: Path) -> str:
    """The release that an x86 boot image names (boot protocol, field ``kernel_version``)."""
    try:
        with vmlinuz.open("rb") as file:
            head = file.read(0x10000)
    except OSError as error:
        raise KernelError(f"cannot read the kernel {vmlinuz}: {error.strerror}") from error
    if head[0x202:0x206] != b"HdrS":
        raise KernelError(f"{vmlinuz} is not an x86 boot image (bzImage)")
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    words = head[offset + 0x200 :].split(b"\0", 1)[0].decode("ascii", "replace").split()
    if not offset or not words:
        raise KernelError(f"{vmlinuz} names no release")
    return words[0]


def find(progress: Progress = lambda step: None, needs: Iterable[str] = ()) -> Kernel:
    """An installed kernel that has the drivers in ``needs``, else the cached package, else the package, fetched."""
    wanted = list(needs)
    for kernel in (*installed(), *_cached()):
        if all(kernel.has(module) for module in wanted):
            return kernel
    return fetch(progress)


def installed(root: Path = Path("/")) -> list[Kernel]:
    """Kernels with their modules below a root, the newest first."""
    found = []
    for vmlinuz in sorted(root.glob("boot/vmlinuz-*"), key=_version_key, reverse=True):
        release = vmlinuz.name.removeprefix("vmlinuz-")
        # Packages since Debian 13 carry /usr/lib/modules, which an installed system shows as /lib/modules.
        places = [root / folder / release for folder in ("lib/modules", "usr/lib/modules")]
        modules = next((place for place in places if place.is_dir()), places[0])
        if os.access(vmlinuz, os.R_OK) and (modules / "kernel").is_dir():
            found.append(Kernel(vmlinuz, modules, modules.name))
    # Debian 14 keeps the image beside the modules.
    for vmlinuz in sorted(root.glob("usr/lib/modules/*/vmlinuz"), key=lambda path: _version_key(path.parent)):
        release = vmlinuz.parent.name
        known = any(kernel.release == release for kernel in found)
        if not known and os.access(vmlinuz, os.R_OK) and (vmlinuz.parent / "kernel").is_dir():
            found.insert(0, Kernel(vmlinuz, vmlinuz.parent, release))
    return found


def _cached() -> list[Kernel]:
    folder = cache_dir() / "kernels"
    places = sorted(folder.glob("linux-image-*"), key=_version_key, reverse=True)
    return [kernel for place in places for kernel in installed(place)]


def _version_key(path: Path) -> list[tuple[int, int | str]]:
    parts: list[str] = re.findall(r"\d+|\D+", path.name)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def fetch(progress: Progress = lambda step: None, package: str | None = None) -> Kernel:
    """Downloads the distribution's kernel package as the user and unpacks it into the cache."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise KernelError(
                f"no kernel is installed with its modules, and {tool} is not here to fetch one",
                "name one with --kernel (its modules in /lib/modules)",
            )
    name = package or _real_package()
    folder = cache_dir() / "kernels"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        progress(f"fetching the kernel package {name}")
        _run(["apt-get", "download", "-q", name], Path(scratch), _APT_HINT)
        packages = list(Path(scratch).glob("*.deb"))
        if len(packages) != 1:
            raise KernelError(f"apt-get download {name} left {len(packages)} packages", _APT_HINT)
        progress(f"unpacking {packages[0].name}")
        tree = Path(scratch, "tree")
        _run(["dpkg-deb", "-x", str(packages[0]), str(tree)], Path(scratch), "is the disk full?")
        target = folder / packages[0].stem
        try:
            # Whoever comes second finds the place taken by the same contents.
            os.rename(tree, target)
        except OSError:
            if not target.is_dir():
                raise
    kernels = installed(target)
    if not kernels:
        raise KernelError(f"{target.name} holds no kernel with modules", "name one with --kernel")
    return kernels[0]


_APT_HINT = "run: sudo apt-get update (and check that the network is there)"


def _real_package() -> str:
    """The package that the distribution's name for "the newest cloud kernel" stands for now."""
    done = subprocess.run(["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, timeout=60)
    match = re.search(r"Depends: (linux-image-[0-9]\S*)", done.stdout)
    if match is None:
        raise KernelError(f"apt does not know the package {META_PACKAGE}", _APT_HINT)
    return match[1]


def _run(argv: list[str], folder: Path, hint: str) -> None:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_APT_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{argv[0]} did not end within {_APT_LIMIT:.0f} s", hint) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise KernelError(f"{' '.join(argv)} failed: {' / '.join(lines[-3:])}", hint)
