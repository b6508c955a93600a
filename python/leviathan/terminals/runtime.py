"""The user's runtime folder, private, and locks in it that live as long as their process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from pathlib import Path

from leviathan.errors import StartError

__all__ = ["Lock", "meeting_folder", "runtime_folder"]


def runtime_folder() -> Path:
    """``$XDG_RUNTIME_DIR/leviathan``, or ``/tmp/leviathan-UID``. Raises ``StartError`` if others could get in."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) / "leviathan" if given else Path(f"/tmp/leviathan-{os.getuid()}")  # noqa: S108 (checked below)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise StartError(f"cannot use the runtime folder {folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartError(
            f"{folder} is not a private folder of yours",
            hint=f"remove it, or chmod 700 {folder}, or set XDG_RUNTIME_DIR",
        )
    return folder


def meeting_folder(cpus: int, addresses: tuple[str, ...]) -> Path:
    """Where the terminals of one giant VM meet: the same for all who say the same of it."""
    told = hashlib.sha256(f"{cpus} {' '.join(addresses)}".encode()).hexdigest()[:12]
    folder = runtime_folder() / f"giant-{told}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


NAME_SECONDS = 1.0
"""So long a holder may take from getting a lock to having written its number."""


class Lock:
    """A lock file, held until closed or until the process ends, however it ends; with the holder's number in it."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.holder: int | None = None
        """Who holds it if we do not; ``None`` if unknown."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.holder = self._find_holder()
            os.close(self._descriptor)
            self._descriptor = -1
            return
        number = f"{os.getpid()}\n".encode()
        os.pwrite(self._descriptor, number, 0)
        os.ftruncate(self._descriptor, len(number))

    def _find_holder(self) -> int | None:
        """The number in the file, as soon as it is that of a process.

        The holder may have got the lock just now, and one before it may have left its number behind.
        """
        end = time.monotonic() + NAME_SECONDS
        while True:
            text = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            if text.isdecimal() and Path(f"/proc/{text}").exists():
                return int(text)
            if time.monotonic() > end:
                return None
            time.sleep(0.01)

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._descriptor >= 0

    def close(self) -> None:
        """Gives it back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
