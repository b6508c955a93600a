"""The head: stock QEMU with the facade preloaded, its ports, its events."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leviathan.errors import LeviathanError
from leviathan.launch.host import Host, Process, Sink
from leviathan.launch.streams import Lines, Tail
from leviathan.qemu.command import PORTS
from leviathan.qemu.qmp import QmpSession
from leviathan.vm.mailbox import Event, Mailbox, json_events
from leviathan.vm.pipes import Pipes
from leviathan.vm.watch import watch_exit

__all__ = ["Head", "HeadFiles", "Streams", "start_head"]


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """Paths on the head's host."""

    folder: str

    @property
    def cluster(self) -> str:
        """The cluster file, private."""
        return f"{self.folder}/cluster.json"

    @property
    def events(self) -> str:
        """A pipe into which the facade writes events."""
        return f"{self.folder}/events.out"

    @property
    def report(self) -> str:
        """Written by the facade when the VM ends."""
        return f"{self.folder}/report.json"


@dataclass(frozen=True, slots=True)
class Streams:
    """Where the guest's output goes."""

    stdout: Sink
    stderr: Sink
    console: Sink


@dataclass(slots=True)
class Head:
    """QEMU as we see it."""

    host: Host
    files: HeadFiles
    process: Process
    control: Process
    qmp: QmpSession
    relays: Sequence[Process] = ()
    """What writes into QEMU's pipes."""
    log: Tail = field(default_factory=Tail)
    """What QEMU and the facade wrote to standard error."""

    def release(self) -> None:
        """Ends the relays to a QEMU that has ended; those from it ended with it."""
        for relay in self.relays:
            relay.close_stdin()

    def report(self) -> dict[str, Any] | None:
        """The facade's report; ``None`` if there is none (a killed QEMU writes none)."""
        try:
            report = json.loads(self.host.get(self.files.report))
        except (OSError, ValueError, LeviathanError):
            return None
        return report if isinstance(report, dict) else None


def start_head(
    host: Host,
    argv: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    cluster: Mapping[str, Any] | None,
    streams: Streams,
    mailbox: Mailbox,
) -> Head:
    """Starts QEMU with its files in a folder. ``cluster`` is ``None`` without a facade. Raises ``LaunchError``."""
    files = HeadFiles(folder)
    # Makes the folder, and tells whoever looks into it what runs.
    host.put(f"{folder}/qemu.command", (shlex.join(argv) + "\n").encode())
    if cluster is not None:
        host.put(files.cluster, json.dumps(cluster).encode(), 0o600)
    pipes = Pipes(host, folder)
    pipes.make([*PORTS, "qmp", "events"])
    log = Tail()
    # Both are set before QEMU starts; the session's first bytes come from QEMU.
    qmp_in = pipes.write("qmp")
    qmp = QmpSession(qmp_in.write, lambda event, data: mailbox.post(Event("qemu", event, data)))
    relays = [
        pipes.read("stdout", streams.stdout),
        pipes.read("stderr", streams.stderr),
        pipes.read("status", Lines(lambda line: _status(mailbox, line))),
        pipes.read("qmp", qmp),
    ]
    if cluster is not None:
        relays.append(pipes.read("events", json_events(mailbox, "head", lambda line: log(line.encode() + b"\n"))))
    process = host.spawn(
        argv,
        env=environment,
        stdout=streams.console,
        stderr=log,
        stdin=True,
    )
    watch_exit(process, "head", mailbox, relays)
    control = pipes.write("control")
    return Head(host, files, process, control, qmp, (control, qmp_in), log)


def _status(mailbox: Mailbox, line: str) -> None:
    """Reports of the guest's init: ``ready SECONDS`` and ``exit CODE``. A guest may write anything."""
    kind, _, value = line.partition(" ")
    if kind == "ready":
        mailbox.post(Event("guest", "ready", {"uptime": value.strip()[:32]}))
    elif kind == "exit" and value.strip().isdecimal():
        mailbox.post(Event("guest", "exit", {"code": int(value) & 0xFF}))
