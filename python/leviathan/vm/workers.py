"""Workers: ``lev-node serve`` on the host of every node but the head's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from leviathan.launch.host import Host, Process
from leviathan.launch.streams import Tail
from leviathan.vm.cluster import Identity, secret_file
from leviathan.vm.mailbox import Mailbox, json_events
from leviathan.vm.trace import trace_path
from leviathan.vm.watch import watch_exit

__all__ = ["Worker", "start_worker", "worker_command", "worker_named"]


@dataclass(slots=True)
class Worker:
    """One worker as we see it."""

    node: int
    name: str
    host: Host
    process: Process
    log: Tail = field(default_factory=Tail)
    address: str | None = None
    """Where it listens, once it has said so."""
    gone: bool = False
    last_words: str = ""
    """Why it left the VM by itself."""


def worker_named(workers: Iterable[Worker], name: str) -> Worker | None:
    """The worker of this name; ``None`` for the head and whatever else is none."""
    return next((worker for worker in workers if worker.name == name), None)


def worker_command(host: Host, node_name: str, folder: str, listen: str) -> list[str]:
    """The command of one worker; the secret stays in a file of mode 0600."""
    program = f"{host.bin_dir}/lev-node"
    files = ["--secret-file", f"{folder}/{node_name}.secret", "--trace", trace_path(folder, node_name)]
    return [program, "serve", "--listen", f"{listen}:0", *files, "--name", node_name]


def start_worker(
    host: Host, node: int, name: str, identity: Identity, folder: str, listen: str, mailbox: Mailbox
) -> Worker:
    """Starts a worker; that it listens arrives in the mailbox as its event ``listening``. Raises ``LaunchError``."""
    secret_path = f"{folder}/{name}.secret"
    host.put(secret_path, secret_file(identity, node))
    log = Tail()
    process = host.spawn(
        worker_command(host, name, folder, listen),
        stdout=json_events(mailbox, name, lambda line: log(line.encode() + b"\n")),
        stderr=log,
    )
    watch_exit(process, name, mailbox)
    return Worker(node, name, host, process, log)
