"""The folder in which named VMs are found: ``$XDG_STATE_HOME/leviathan/vms/NAME``, private to the user.

A folder holds ``entry.json`` (what is known of the VM), ``lock`` (held by the supervisor as long as it lives, so that
nobody has to trust a process number), ``control`` (its socket), ``console.log`` and ``lev.log``. Not below
``$XDG_RUNTIME_DIR``: that goes away with the user's last session, a VM in the background does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from leviathan.errors import LeviathanError, UsageError
from leviathan.named.leftovers import clean_up

__all__ = ["CONSOLE_LOG", "LEV_LOG", "MACHINE", "RECORD", "Entry", "State", "Store", "StoreError"]

SCHEMA = 1
ENTRY = "entry.json"
LOCK = "lock"
CONSOLE_LOG = "console.log"
LEV_LOG = "lev.log"
MACHINE = "machine.json"
RECORD = "record.json"
NAME = r"[a-z][a-z0-9-]{0,30}"
"""As in machine descriptions: a VM's lasting files lie in a folder of its name."""
ENDED_KEPT = 20
"""VMs that have ended are kept for their logs; older ones go when a new one starts."""

State = Literal["starting", "running", "stopping", "ended", "failed", "lost"]


class StoreError(LeviathanError):
    """The folder of VMs cannot be used."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one VM."""

    name: str
    state: State = "starting"
    kind: str = ""
    """``giant`` (over nodes) or ``plain`` (one QEMU on this machine)."""
    cpus: int = 0
    memory: int = 0
    """Bytes."""
    nodes: int = 0
    supervisor: int | None = None
    """Its process number, to be shown; whether it lives, the lock tells."""
    host: str = field(default_factory=socket.gethostname)
    created: float = field(default_factory=time.time)
    """Seconds since 1970, as ``ended``."""
    ended: float | None = None
    exit_code: int | None = None
    error: str | None = None
    hint: str | None = None
    display: str | None = None
    """Where its screen is shown."""
    leftovers: dict[str, Any] = field(default_factory=dict)
    """What has to go if the supervisor is killed: ``folders`` and ``processes`` (number and start time)."""

    @property
    def alive(self) -> bool:
        """The VM has a supervisor."""
        return self.state in ("starting", "running", "stopping")

    def as_json(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {"schema": SCHEMA} | asdict(self)


class Store:
    """All named VMs of this user."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or _default_root()

    def folder(self, name: str) -> Path:
        """Where a VM's files are."""
        return self.root / name

    def names(self) -> list[str]:
        """Every name in use, ended VMs included, oldest first."""
        with suppress(FileNotFoundError):
            found = [path for path in self.root.iterdir() if (path / ENTRY).is_file()]
            return [path.name for path in sorted(found, key=lambda path: _created(path / ENTRY))]
        return []

    def entry(self, name: str) -> Entry:
        """A VM by name; one whose supervisor is gone is found out here. Raises ``UsageError`` if there is none."""
        if re.fullmatch(NAME, name) is None:
            raise self._unknown(name)
        try:
            entry = _read(self.folder(name) / ENTRY)
        except FileNotFoundError:
            raise self._unknown(name) from None
        if entry.alive and entry.host == socket.gethostname() and not self.locked(name):
            # Its supervisor may have ended in order between the two looks.
            entry = _read(self.folder(name) / ENTRY)
            if entry.alive:
                entry = self._lost(entry)
        return entry

    def entries(self) -> list[Entry]:
        """All of them, oldest first."""
        return [self.entry(name) for name in self.names()]

    def locked(self, name: str) -> bool:
        """Whether a supervisor lives."""
        try:
            descriptor = os.open(self.folder(name) / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def reserve(self, name: str | None, default: str = "leviathan", **known: Any) -> tuple[Entry, int]:
        """A fresh folder for a VM, and the descriptor of its lock, which is held: hand it to the supervisor.

        Without a name the first of ``default``, ``default-2``… that is free. Raises ``UsageError`` for a name in use.
        """
        if name is not None and re.fullmatch(NAME, name) is None:
            raise UsageError(f"--name {name}: a name is a small letter, then up to 30 small letters, digits or dashes")
        with self._all_locked():
            if name is None:
                free = (default if n == 1 else f"{default}-{n}" for n in range(1, 1 << 16))
                name = next(each for each in free if not self.locked(each))
            folder = self.folder(name)
            if self.locked(name):
                raise UsageError(f"a VM called {name} runs already", hint=f"another --name, or: lev stop {name}")
            self._prune(keep=name)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            entry = Entry(name=name, **known)
            self.save(entry)
        return entry, lock

    def save(self, entry: Entry) -> None:
        """Writes an entry, whole or not at all."""
        path = self.folder(entry.name) / ENTRY
        new = path.with_name(f".{ENTRY}.{os.getpid()}")
        new.write_text(json.dumps(entry.as_json(), indent=2) + "\n", encoding="utf-8")
        new.replace(path)

    def remove(self, name: str) -> None:
        """Forgets a VM that has ended. Raises ``UsageError`` if it runs or there is none."""
        with self._all_locked():
            if self.entry(name).alive:
                raise UsageError(f"{name} runs", hint=f"stop it first: lev stop {name}")
            shutil.rmtree(self.folder(name))

    def _lost(self, entry: Entry) -> Entry:
        clean_up(entry.leftovers)
        lost = replace(
            entry,
            state="lost",
            ended=time.time(),
            error="its supervisor was killed, or this machine was restarted; what it left behind has been removed",
            leftovers={},
        )
        self.save(lost)
        return lost

    def _prune(self, keep: str) -> None:
        ended = [entry.name for entry in self.entries() if not entry.alive and entry.name != keep]
        for name in ended[:-ENDED_KEPT]:
            shutil.rmtree(self.folder(name), ignore_errors=True)

    def _unknown(self, name: str) -> UsageError:
        others = [entry.name for entry in self.entries() if entry.alive]
        hint = f"these run: {', '.join(others)}" if others else "none runs; `lev run -d --name NAME` starts one"
        return UsageError(f"there is no VM called {name}", hint=hint)

    @contextmanager
    def _all_locked(self) -> Iterator[None]:
        """Nobody else makes or removes VMs meanwhile."""
        _private_folder(self.root)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _default_root() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "leviathan", "vms")


def _private_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.stat()
    except OSError as error:
        raise StoreError(
            f"cannot make {path}: {error.strerror}", hint="set XDG_STATE_HOME to a folder of yours"
        ) from error
    if facts.st_uid != os.getuid():
        raise StoreError(f"{path} belongs to another user", hint="set XDG_STATE_HOME to a folder of yours")
    if facts.st_mode & 0o077:
        path.chmod(0o700)


def _read(path: Path) -> Entry:
    """An entry as it is stored; fields of a newer version are left out."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {each.name for each in fields(Entry)}
        return Entry(**{name: value for name, value in data.items() if name in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is damaged: {error}", hint=f"remove {path.parent}") from error


def _created(path: Path) -> float:
    with suppress(StoreError, OSError):
        return _read(path).created
    return 0
