"""The one interface through which the control plane starts programs on a node, wherever the node is.

Implementations: ``launch.local.LocalHost`` (this machine, ``subprocess``), ``lab.machine.LabHost`` (inside a lab VM,
through its agent). Later ones (SSH, Slurm) keep to the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Sink = Callable[[bytes], None]
"""Called with each piece of output, from a reader thread, in order; never with an empty piece."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host can do, as probed by running, not by looking at device files."""

    kvm: str | None
    """``None`` if KVM runs ordinary guests here, else the reason why not."""
    userfaultfd: str | None
    """``None`` if a userfaultfd that serves kernel faults opens, else the reason why not."""
    cpus: int
    memory_free: int
    """Bytes that new processes may take."""
    tsc_khz: int
    """Rate of the time-stamp counter as KVM reports it, else as measured; 0: unknown."""
    cpu_vendor: str
    """``AuthenticAMD`` or ``GenuineIntel``."""
    kernel: str


class Process(Protocol):
    """A program running on a host."""

    pid: int

    def write(self, data: bytes) -> None:
        """Sends bytes to its standard input."""

    def close_stdin(self) -> None:
        """Ends its standard input."""

    def signal(self, number: int) -> None:
        """Sends a signal; no error if the program has ended."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code (negative: signal number) or ``None`` when the time is over."""


class Host(Protocol):
    """A place where node programs run."""

    name: str
    bin_dir: str
    """Folder on that host that holds ``lev-node`` and ``liblev_facade.so``."""
    address: str
    """IP address at which other nodes reach this host."""

    def facts(self) -> HostFacts:
        """What the host can do; probed once."""

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        stdin: bool = False,
    ) -> Process:
        """Starts a program. ``env`` is added to a small clean environment. Raises ``LaunchError``."""

    def put(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Writes a file on that host, folders included."""

    def get(self, path: str) -> bytes:
        """Contents of a file on that host."""

    def close(self) -> None:
        """Ends every program started here and removes what was put there."""
