"""Archives in the format that the kernel unpacks as an initramfs: cpio "newc" (kernel: buffer-format.rst).

The same entries give the same bytes: owner 0:0, time 0, inodes counted from 1. Archives may be concatenated, later
entries replace earlier ones; each archive starts on a 4-byte border.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_MAX_FILE = 0xFFFF_FFFF


class CpioError(Exception):
    """An entry that the format cannot carry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive. ``name`` has no leading slash; ``data`` is a path when the bytes stay on disk."""

    name: str
    mode: int
    data: bytes | Path = b""
    device: tuple[int, int] = (0, 0)


class Archive:
    """Entries by name, in the order of their addition; parent folders are added by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __contains__(self, name: str) -> bool:
        return clean(name) in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Adds an entry; one of the same name is replaced, but never a folder by a file or the other way round."""
        name = clean(entry.name)
        old = self._entries.get(name)
        if old is not None and stat.S_ISDIR(old.mode) != stat.S_ISDIR(entry.mode):
            raise CpioError(f"/{name} would be a folder and a file at the same time")
        self._parents(name)
        self._entries[name] = Entry(name, entry.mode, entry.data, entry.device)

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Adds a folder. A folder that is there keeps its place and takes the mode."""
        self.add(Entry(name, stat.S_IFDIR | mode))

    def file(self, name: str, data: bytes | Path, mode: int = 0o644) -> None:
        """Adds a regular file with these bytes, or with those of a file on disk."""
        self.add(Entry(name, stat.S_IFREG | mode, data))

    def symlink(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        self.add(Entry(name, stat.S_IFLNK | 0o777, os.fsencode(target)))

    def char_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Adds a character device node."""
        self.add(Entry(name, stat.S_IFCHR | mode, device=(major, minor)))

    def tree(self, source: Path, prefix: str = "") -> None:
        """Adds everything below a folder on disk, links as links; sockets, pipes and devices are refused."""
        for folder, folders, files in os.walk(source, onerror=_raise):
            base = PurePosixPath(prefix, *Path(folder).relative_to(source).parts)
            for name in sorted(folders + files):
                path = Path(folder, name)
                self._from_disk(path, str(base / name))
            folders.sort()

    def _from_disk(self, path: Path, name: str) -> None:
        info = path.lstat()
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISLNK(info.st_mode):
            self.symlink(name, os.readlink(path))
        elif stat.S_ISDIR(info.st_mode):
            self.directory(name, mode)
        elif stat.S_ISREG(info.st_mode):
            self.file(name, path, mode)
        else:
            raise CpioError(f"{path} is neither a file, a folder nor a link; it cannot go into an image")

    def _parents(self, name: str) -> None:
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            old = self._entries.get(str(parent))
            if old is None:
                self._entries[str(parent)] = Entry(str(parent), stat.S_IFDIR | 0o755)
            elif not stat.S_ISDIR(old.mode):
                raise CpioError(f"/{name} lies below /{parent}, which is not a folder")

    def chunks(self) -> Iterator[bytes]:
        """The archive in pieces, padded to 512 bytes so that another one may follow."""
        length = 0
        for inode, entry in enumerate(self, start=1):
            data = entry.data if isinstance(entry.data, bytes) else entry.data.read_bytes()
            for piece in (_header(entry, inode, len(data)), data, bytes(-len(data) % 4)):
                length += len(piece)
                yield piece
        end = _header(Entry(_TRAILER, 0), 0, 0)
        yield end
        yield bytes(-(length + len(end)) % 512)

    def bytes(self) -> bytes:
        """The archive as one piece."""
        return b"".join(self.chunks())


def clean(name: str) -> str:
    """A name inside an archive: no leading slash, no ``.`` and never ``..``."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", ".")]
    if not parts or ".." in parts or "\0" in name:
        raise CpioError(f"{name!r} is not a path inside an image")
    return "/".join(parts)


def _header(entry: Entry, inode: int, size: int) -> bytes:
    if size > _MAX_FILE:
        raise CpioError(f"/{entry.name} has {size} bytes; the format ends at {_MAX_FILE}")
    name = os.fsencode(entry.name) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, size, 0, 0, *entry.device, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4)


def _raise(error: OSError) -> None:
    raise error
