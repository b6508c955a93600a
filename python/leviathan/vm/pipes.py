"""Byte streams between us and QEMU's character devices on any host.

A ``Host`` gives the three streams of a program and nothing else, here as in a lab machine. So each port is a pair of
named pipes on the head's host with a ``cat`` at our end; QEMU's pipe device opens both ends read-write, so that nobody
blocks in ``open`` and the end of QEMU is the end of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

from leviathan.errors import LaunchError
from leviathan.launch.host import Host, Process, Sink

__all__ = ["Pipes"]

MAKE_SECONDS = 20


class Pipes:
    """The ports' named pipes in one folder of a host, which must exist."""

    def __init__(self, host: Host, folder: str) -> None:
        self._host = host
        self._folder = folder

    def make(self, ports: Sequence[str]) -> None:
        """Makes both pipes of every port. Raises ``LaunchError``."""
        said: list[bytes] = []
        paths = [f"{self._folder}/{port}.{way}" for port in ports for way in ("in", "out")]
        process = self._host.spawn(["mkfifo", "-m", "600", *paths], stderr=said.append)
        if process.wait(MAKE_SECONDS) != 0:
            why = b"".join(said).decode(errors="replace").strip() or f"no answer in {MAKE_SECONDS} s"
            raise LaunchError(f"cannot make pipes in {self._folder} on {self._host.name}: {why}")

    def read(self, port: str, sink: Sink) -> Process:
        """Passes on what QEMU writes to a port; the process ends when QEMU does."""
        return self._host.spawn(["cat", f"{self._folder}/{port}.out"], stdout=sink)

    def write(self, port: str) -> Process:
        """A process whose standard input is what QEMU reads from a port."""
        # The shell opens the pipe read-write: a plain open for writing would wait for QEMU.
        return self._host.spawn(["sh", "-c", 'exec cat 1<>"$0"', f"{self._folder}/{port}.in"], stdin=True)
