"""QEMU, kernels and guest tools of any suite, unpacked into the user's cache: ``lev images``.

Each lies in a folder of its own, ``suites/SUITE/ARCHITECTURE/NAME-VERSION`` below the cache folder: a tree as the
packages hold it, a manifest, and for QEMU a starter script. A QEMU of another release needs that release's C library;
the starter runs it through the loader of its own tree, so that neither the system nor the packager's file changes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from leviathan.images.apt import Apt, host_architecture, system_suite, unpack
from leviathan.images.base import ImageError
from leviathan.images.kernel import Kernel, Progress, cache_dir, installed

__all__ = [
    "KINDS",
    "Unpacked",
    "find",
    "get",
    "home_of",
    "host_architecture",
    "kernel_of",
    "listed",
    "newest",
    "program_of",
    "remove",
]

MANIFEST = "leviathan.json"
SCHEMA = 1
LOADERS = {"amd64": "usr/lib64/ld-linux-x86-64.so.2", "arm64": "usr/lib/ld-linux-aarch64.so.1"}
TRIPLES = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
QEMU = {"amd64": ("qemu-system-x86", "qemu-system-x86_64"), "arm64": ("qemu-system-arm", "qemu-system-aarch64")}
"""Per guest architecture: the package, and the program in it."""
TOOLS = ("cxl", "ndctl", "daxctl", "numactl", "e2fsprogs", "busybox-static")
WORKLOADS = ("stress-ng", "redis-server", "redis-tools", "zstd")
"""What `lev bench guest` runs in its guests."""
KINDS = ("qemu", "kernel", "tools", "workloads")


@dataclass(frozen=True, slots=True)
class Unpacked:
    """Packages of one suite, unpacked for one purpose."""

    kind: str
    """One of ``KINDS``."""
    suite: str
    architecture: str
    """Of the guests that it is for."""
    version: str
    packages: tuple[str, ...]
    folder: Path

    @property
    def tree(self) -> Path:
        """The root of the packages' files."""
        return self.folder / "tree"

    @property
    def path(self) -> Path:
        """What to give to ``lev run``: QEMU's starter for ``--qemu``, a kernel's image for ``--kernel``."""
        if self.kind == "qemu":
            return self.folder / QEMU[self.architecture][1]
        if self.kind == "kernel":
            return kernel_of(self).vmlinuz
        return self.tree


def listed() -> list[Unpacked]:
    """Everything that is unpacked, by suite, architecture and name."""
    found = [_read(path) for path in sorted((cache_dir() / "suites").glob(f"*/*/*/{MANIFEST}"))]
    return [unpacked for unpacked in found if unpacked is not None]


def find(kind: str, suite: str, architecture: str) -> Unpacked | None:
    """The newest one that is unpacked already."""
    rows = [u for u in listed() if (u.kind, u.suite, u.architecture) == (kind, suite, architecture)]
    return max(rows, key=lambda row: (row.folder / MANIFEST).stat().st_mtime, default=None)


def newest(kind: str, suite: str | None, architecture: str, progress: Progress = lambda step: None) -> Unpacked:
    """What is unpacked of a suite (``None``: the system's), else fetched now."""
    suite = suite or system_suite()
    return find(kind, suite, architecture) or get(kind, suite, architecture, progress)


def home_of(path: Path) -> Unpacked | None:
    """What a file was unpacked with."""
    return next((unpacked for unpacked in listed() if path.is_relative_to(unpacked.folder)), None)


def get(
    kind: str, suite: str | None = None, architecture: str | None = None, progress: Progress = lambda step: None
) -> Unpacked:
    """Fetches and unpacks what the suite offers now; what is there in this version stays. Raises ``ImageError``."""
    host = host_architecture()
    suite = suite or system_suite()
    architecture = architecture or host
    if kind not in KINDS:
        raise ImageError(f"there are no images of {kind!r}", f"known: {', '.join(KINDS)}")
    if architecture not in QEMU:
        raise ImageError(f"architecture {architecture!r} is not known", f"known: {', '.join(QEMU)}")
    # QEMU runs here, whatever its guests are; kernels and tools run in the guest.
    apt = Apt(suite, host if kind == "qemu" else architecture, progress)
    names, version = _PLANS[kind](apt, architecture)
    label = version.split(":", 1)[-1].replace("/", "_")
    target = cache_dir() / "suites" / suite / architecture / f"{kind}-{label}"
    if (there := _read(target / MANIFEST)) is not None:
        progress(f"{kind} {label} of {suite} is there")
        return there
    packages = apt.alone(names) if kind == "kernel" else apt.closure(names)
    files = apt.fetch(packages)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as scratch:
        progress(f"unpacking {len(files)} packages")
        new = Path(scratch, "new")
        unpack(files, new / "tree")
        made = Unpacked(kind, suite, architecture, version, tuple(file.name for file in files), target)
        if kind == "qemu":
            _starter(made, new, host)
        if kind == "kernel" and not installed(new / "tree"):
            raise ImageError(f"the packages {' '.join(made.packages)} hold no kernel with modules")
        _write(made, new / MANIFEST)
        try:
            # Whoever comes second finds the place taken by the same contents.
            os.rename(new, target)
        except OSError:
            if not target.is_dir():
                raise
    for file in files:
        file.unlink(missing_ok=True)
    return made


def kernel_of(unpacked: Unpacked) -> Kernel:
    """The kernel in an unpacked package."""
    kernels = installed(unpacked.tree)
    if not kernels:
        raise ImageError(f"{unpacked.folder} holds no kernel with modules", "remove that folder and get it again")
    return kernels[0]


def program_of(starter: Path) -> Path:
    """The program behind a QEMU starter of ours; any other path is returned as it is."""
    unpacked = _read(starter.parent / MANIFEST)
    if unpacked is None or unpacked.kind != "qemu" or starter.name != QEMU[unpacked.architecture][1]:
        return starter
    return unpacked.tree / "usr/bin" / starter.name


def remove(unpacked: Unpacked) -> None:
    """Deletes what was unpacked."""
    shutil.rmtree(unpacked.folder)


def _qemu(apt: Apt, architecture: str) -> tuple[list[str], str]:
    name = QEMU[architecture][0]
    more = ["qemu-efi-aarch64"] if architecture == "arm64" else ["ovmf"]
    return [name, *more], _version(apt, name)


def _kernel(apt: Apt, architecture: str) -> tuple[list[str], str]:
    meta = f"linux-image-cloud-{architecture}"
    _version(apt, meta)
    real = next((name for name in apt.depends(meta) if name.startswith("linux-image-")), None)
    if real is None:
        raise ImageError(f"{meta} of {apt.suite} names no kernel")
    # Since Debian 14 image, modules and the rest come in packages of their own, all named after the release.
    release = real.removeprefix("linux-image-")
    parts = [name for name in apt.depends(real) if name.endswith(f"-{release}")]
    return [real, *parts], _version(apt, real)


def _tools(apt: Apt, architecture: str) -> tuple[list[str], str]:
    del architecture
    return list(TOOLS), _version(apt, TOOLS[0])


def _workloads(apt: Apt, architecture: str) -> tuple[list[str], str]:
    del architecture
    return list(WORKLOADS), _version(apt, WORKLOADS[0])


_PLANS: dict[str, Callable[[Apt, str], tuple[list[str], str]]] = {
    "qemu": _qemu,
    "kernel": _kernel,
    "tools": _tools,
    "workloads": _workloads,
}


def _version(apt: Apt, name: str) -> str:
    version = apt.find(name)
    if version is None:
        raise ImageError(f"{apt.suite} ({apt.architecture}) offers no package {name}", "choose another --suite")
    return version


def _starter(unpacked: Unpacked, new: Path, host: str) -> None:
    """A script that runs the tree's QEMU with the tree's loader, libraries, modules and firmware.

    A library preloaded into this script would not reach QEMU, which another loader starts: its path comes in
    ``LEV_FACADE``.
    """
    tree, name = unpacked.tree, QEMU[unpacked.architecture][1]
    loader = LOADERS[host]
    if not (new / "tree" / loader).exists():
        raise ImageError(f"the C library of {unpacked.suite} has no {loader}")
    libraries = [tree / f"usr/lib/{TRIPLES[host]}", tree / "usr/lib", *_nested(new / "tree", tree, host)]
    words: list[str] = [str(tree / loader), "--inhibit-cache", "--library-path", ":".join(map(str, libraries))]
    firmware = [word for folder in FIRMWARE for word in ("-L", str(tree / folder))]
    script = (
        "#!/bin/sh\n"
        f"# {name} {unpacked.version} of {unpacked.suite}, unpacked by `lev images`.\n"
        f"export QEMU_MODULE_DIR={shlex.quote(str(tree / f'usr/lib/{TRIPLES[host]}/qemu'))}\n"
        f'exec {shlex.join(words)} ${{LEV_FACADE:+--preload "$LEV_FACADE"}} '
        f'--argv0 {name} {shlex.quote(str(tree / "usr/bin" / name))} {shlex.join(firmware)} "$@"\n'
    )
    path = new / name
    path.write_text(script)
    path.chmod(0o755)


def _nested(new: Path, tree: Path, host: str) -> list[Path]:
    """Folders of libraries below the usual one that a package would have told ldconfig about."""
    names = {"pulseaudio", "blas", "lapack"}
    base = f"usr/lib/{TRIPLES[host]}"
    return [tree / base / name for name in sorted(names) if (new / base / name).is_dir()]


def _write(unpacked: Unpacked, path: Path) -> None:
    data = {"schema": SCHEMA} | {name: value for name, value in asdict(unpacked).items() if name != "folder"}
    path.write_text(json.dumps(data, indent=2) + "\n")


def _read(path: Path) -> Unpacked | None:
    """What a manifest says; ``None`` if there is none, or one that we did not write."""
    try:
        data = json.loads(path.read_text())
        if data["schema"] != SCHEMA or data["kind"] not in KINDS or data["architecture"] not in QEMU:
            return None
        packages: Sequence[str] = data["packages"]
        kind, suite, architecture, version = (str(data[name]) for name in ("kind", "suite", "architecture", "version"))
        return Unpacked(kind, suite, architecture, version, tuple(map(str, packages)), path.parent)
    except (OSError, ValueError, KeyError, TypeError):
        return None
