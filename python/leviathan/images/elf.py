"""The shared libraries that a program needs, found as the dynamic loader finds them, without running anything.

Search order as in ld.so(8): DT_RPATH (when there is no DT_RUNPATH), DT_RUNPATH, the system's folders. A program may
lie under another root (an unpacked package): then its libraries are looked for under that root first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CLASS64_LSB = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29
_MAX_STRTAB = 64 << 20

SYSTEM_DIRS = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
"""Folders that a loader searches without being told (Debian's first)."""
_HOME = {62: "/lib/x86_64-linux-gnu", 183: "/lib/aarch64-linux-gnu"}
"""By ``e_machine``."""


class ElfError(Exception):
    """A file that is no 64-bit ELF, or one whose libraries are missing."""


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the loader reads from one ELF file. All empty in a static program."""

    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    machine: int
    """Number of the architecture (``e_machine``)."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A file on disk and the absolute path at which an image must hold it."""

    source: Path
    target: str


def read_dynamic(path: Path) -> Dynamic:
    """Reads program headers and the dynamic section. Raises ``ElfError``."""
    try:
        with path.open("rb") as file:
            return _read(path, file.fileno())
    except (OSError, OverflowError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise ElfError(f"cannot read {path} as ELF: {error}") from error


def _read(path: Path, fd: int) -> Dynamic:
    head = os.pread(fd, 64, 0)
    if head[:6] != _CLASS64_LSB:
        raise ElfError(f"{path} is not a 64-bit little-endian ELF file")
    (machine,) = struct.unpack_from("<H", head, 18)
    offset, entry_size, count = struct.unpack_from("<Q14xHH", head, 32)
    loads: list[tuple[int, int, int]] = []
    dynamic = b""
    interpreter = None
    for index in range(count):
        kind, start, address, size = struct.unpack("<I4xQQ8xQ", os.pread(fd, 40, offset + index * entry_size))
        if kind == _PT_LOAD:
            loads.append((address, start, size))
        elif kind == _PT_DYNAMIC:
            dynamic = os.pread(fd, size, start)
        elif kind == _PT_INTERP:
            interpreter = os.pread(fd, size, start).rstrip(b"\0").decode()
    tags: list[tuple[int, int]] = list(struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16]))
    single = {tag: value for tag, value in tags if tag in (_DT_STRTAB, _DT_STRSZ)}
    if _DT_STRTAB not in single:
        return Dynamic(interpreter, (), (), (), machine)
    address = single[_DT_STRTAB]
    start = next((s + address - a for a, s, n in loads if a <= address < a + n), None)
    if start is None or single.get(_DT_STRSZ, 0) > _MAX_STRTAB:
        raise ElfError(f"{path}: its string table at {address:#x} lies in no loaded segment")
    strings = os.pread(fd, single[_DT_STRSZ], start)

    def text(tag: int) -> list[str]:
        return [strings[v : strings.index(b"\0", v)].decode() for t, v in _until_null(tags) if t == tag]

    def folders(tag: int) -> tuple[str, ...]:
        return tuple(folder for value in text(tag) for folder in value.split(":") if folder)

    return Dynamic(interpreter, tuple(text(_DT_NEEDED)), folders(_DT_RPATH), folders(_DT_RUNPATH), machine)


def _until_null(tags: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for tag, value in tags:
        if tag == _DT_NULL:
            return
        yield tag, value


def root_of(program: Path) -> Path:
    """The root of the tree that a program was unpacked into: ``/x`` for ``/x/usr/bin/qemu``, ``/`` otherwise."""
    parts = program.parts
    for index in range(1, len(parts) - 1):
        if parts[index:-1] in (("usr", "bin"), ("bin",), ("usr", "local", "bin"), ("usr", "libexec")):
            return Path(*parts[:index])
    return Path("/")


class Closure:
    """Programs and the libraries that they need, each library once; the first one found under a name stays."""

    def __init__(self) -> None:
        self._placed: dict[str, Placed] = {}
        self._libraries: dict[str, str] = {}
        self._system = _configured_dirs()

    def files(self) -> list[Placed]:
        """Everything to put into the image."""
        return list(self._placed.values())

    def add(self, program: Path, target: str | None = None, root: Path | None = None) -> str:
        """Adds a program or library with all that it needs; returns its path in the image."""
        program = Path(os.path.abspath(program))
        if root is None:
            root = root_of(program)
        where = target or "/" + str(program.relative_to(root))
        self._place(program, where)
        self._follow(program, where, root)
        return where

    def _place(self, source: Path, target: str) -> None:
        self._placed.setdefault(target, Placed(source.resolve(), target))

    def _follow(self, path: Path, target: str, root: Path) -> None:
        info = read_dynamic(path)
        if info.interpreter is not None and info.interpreter not in self._placed:
            self._place(_first(_below(base, info.interpreter) for base in (root, Path("/"))), info.interpreter)
            # The loader answers to its own name as a library, too.
            self._libraries.setdefault(os.path.basename(info.interpreter), info.interpreter)
        for name in info.needed:
            if name not in self._libraries:
                self._resolve(name, info, path, target, root)

    def _resolve(self, name: str, info: Dynamic, user: Path, user_target: str, root: Path) -> None:
        own = info.runpath or info.rpath
        for folder in own:
            origin = os.path.dirname(user_target)
            at = os.path.normpath(folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
            for candidate in (_below(root, at) / name, user.resolve().parent / name):
                if _fits(candidate, info.machine):
                    self._library(name, candidate, f"{at}/{name}", root)
                    return
        for base, folders in ((root, SYSTEM_DIRS), (Path("/"), self._system)):
            for folder in folders:
                candidate = _below(base, folder) / name
                if _fits(candidate, info.machine):
                    # Without its cache the loader knows only its built-in folders.
                    home = folder if folder in SYSTEM_DIRS else _HOME.get(info.machine, "/lib")
                    self._library(name, candidate, f"{home}/{name}", root)
                    return
        raise ElfError(f"{user} needs {name}, which is in none of {', '.join((*own, *SYSTEM_DIRS))}")

    def _library(self, name: str, source: Path, target: str, root: Path) -> None:
        self._libraries[name] = target
        self._place(source, target)
        self._follow(source, target, root)


def _below(root: Path, absolute: str) -> Path:
    return root / absolute.lstrip("/")


def _first(candidates: Iterable[Path]) -> Path:
    tried = []
    for candidate in candidates:
        if candidate.exists():
            return candidate
        tried.append(str(candidate))
    raise ElfError(f"none of {', '.join(tried)} exists")


def _fits(path: Path, machine: int) -> bool:
    """Whether a library exists and is of an architecture."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        head = file.read(20)
    return head[:6] == _CLASS64_LSB and int.from_bytes(head[18:20], "little") == machine


def _configured_dirs() -> tuple[str, ...]:
    """The loader's own folders, then those of /etc/ld.so.conf and what it includes."""
    found = list(SYSTEM_DIRS)
    waiting = [Path("/etc/ld.so.conf")]
    while waiting:
        try:
            lines = waiting.pop().read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in (text.split("#")[0].strip() for text in lines):
            if line.startswith("include "):
                waiting += sorted(Path("/etc").glob(line.split(None, 1)[1].removeprefix("/etc/")))
            elif line and line not in found:
                found.append(line)
    return tuple(found)
