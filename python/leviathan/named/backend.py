"""What the supervisor needs of a VM, of whatever kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from leviathan.model.machine import Machine
from leviathan.named.consolehub import ConsoleHub
from leviathan.named.guestloop import CommandPort
from leviathan.vm.progress import Progress

__all__ = ["Backend", "EventSink", "make_backend"]

EventSink = Callable[[str, dict[str, Any]], None]
"""Takes an event of QEMU's monitor: name and data. Called from any thread; must not block."""


class Backend(Protocol):
    """One VM. ``start``, ``wait`` and ``close`` belong to one thread; the rest may be called from any."""

    def start(self) -> None:
        """Returns when the guest is up; for one that does not tell, when QEMU runs. Raises a ``LeviathanError``."""

    def wait(self) -> int:
        """Returns the exit code when the VM has ended, by itself or by ``stop``. Raises a ``LeviathanError``."""

    def stop(self, *, now: bool) -> None:
        """Asks for the end: the guest powers off, or with ``now`` QEMU quits at once. Returns without waiting."""

    def close(self) -> None:
        """Ends and removes everything that is left."""

    def qmp(self, command: str, arguments: dict[str, Any], timeout: float) -> Any:
        """Runs a command of QEMU's monitor. Raises ``QmpError``."""

    def read_file(self, path: str) -> bytes:
        """A file that QEMU wrote."""

    def scratch(self, name: str) -> str:
        """A path for QEMU to write to, in the VM's own folder."""

    def trace(self, path: Path, seconds: float) -> None:
        """Records what happens to the guest's memory for so long into a file. Raises a ``LeviathanError``."""

    def facts(self) -> dict[str, Any]:
        """What is worth knowing: ``qemu``, ``qemu_version``, ``kernel``, ``display`` and more."""

    def leftovers(self) -> dict[str, Any]:
        """What has to go if we are killed; see ``Entry.leftovers``."""

    def record(self) -> dict[str, Any]:
        """What happened, as ``lev run --json`` writes it."""


def make_backend(
    machine: Machine, console: ConsoleHub, port: CommandPort, progress: Progress, on_event: EventSink
) -> Backend:
    """The backend for a machine."""
    from leviathan.named.lifebackend import LifeBackend

    return LifeBackend(machine, console, port, progress, on_event)
