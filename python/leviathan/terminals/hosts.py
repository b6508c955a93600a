"""A giant VM whose nodes are on several machines: no meeting, but ports and a secret that all of them know.

Each worker's terminal becomes ``lev-node serve`` on its own address; the head connects to all of them. What proves that
they belong together is a secret in a file, which the user brings to every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from leviathan.cmdline.giant import Part
from leviathan.errors import LaunchError, StartError, TimeOver, UsageError
from leviathan.launch.local import LocalHost
from leviathan.launch.streams import Tail
from leviathan.terminals.runtime import runtime_folder
from leviathan.vm.cluster import Identity, secret_file
from leviathan.vm.mailbox import Event, Mailbox, json_events
from leviathan.vm.watch import watch_exit

__all__ = [
    "FIRST_PORT",
    "await_workers",
    "check_address",
    "check_kvm",
    "read_identity",
    "serve_node",
    "worker_addresses",
]

FIRST_PORT = 37710
"""Node N listens on this port + N, as GiantVM's do."""
AGAIN_SECONDS = 0.5
CONNECT_SECONDS = 2.0
HOW = "make one: (umask 077; openssl rand -hex 32 > FILE), the same file on every machine"


def read_identity(path: Path | None, part: Part) -> Identity:
    """The run's name and key, the same on all machines that have the same file. Raises ``UsageError``."""
    if path is None:
        raise UsageError(
            f"the nodes are on several machines ({', '.join(part.addresses)}): they need a common secret",
            hint=f"give --secret-file FILE; {HOW}",
        )
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(200).decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"--secret-file: cannot read {path}: {error.strerror}", hint=HOW) from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"--secret-file: others can read {path}", hint=f"chmod 600 {path}, and make a new secret")
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise UsageError(f"--secret-file: {path} holds no 64 hexadecimal digits", hint=HOW)
    told = f"{text} {part.cpus} {' '.join(part.addresses)}"
    return Identity(hashlib.sha256(told.encode()).hexdigest()[:32], text)


def check_address(part: Part) -> None:
    """The node's address is this machine's. Raises ``UsageError``."""
    address = part.addresses[part.node]
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise UsageError(
                f"node {part.node} (start={part.start}) is on {address}, and this machine has no such address",
                hint="start each node on its own machine; iplist has the head's address first",
            ) from error


def check_kvm(part: Part) -> None:
    """Nodes on several machines run under KVM. Raises ``StartError``."""
    why = LocalHost().facts().kvm
    if why is not None:
        raise StartError(
            f"node {part.node} cannot run here: KVM does not run guests ({why})",
            hint="nodes on several machines need KVM on each; nodes on one machine run in a lab machine instead",
        )


def worker_addresses(part: Part) -> list[str]:
    """Where nodes 1, 2, … listen."""
    return [f"{address}:{FIRST_PORT + node}" for node, address in enumerate(part.addresses) if node > 0]


def await_workers(part: Part, say: Callable[[str], None], timeout: float | None) -> None:
    """Returns when every worker listens. Raises ``TimeOver``."""
    end = None if timeout is None else time.monotonic() + timeout
    for node, place in enumerate(worker_addresses(part), start=1):
        waited = False
        while not _listens(place):
            if not waited:
                same = f"the same command with start={node * part.cpus}"
                say(f"node {node} does not listen on {place} yet: start it there, {same}")
                waited = True
            if end is not None and time.monotonic() > end:
                raise TimeOver(
                    f"waited {timeout:g} s for node {node} on {place}",
                    hint="start it there; let no firewall stop the port",
                )
            time.sleep(AGAIN_SECONDS)
        say(f"node {node} listens on {place}")


def _listens(place: str) -> bool:
    address, _, port = place.rpartition(":")
    try:
        socket.create_connection((address, int(port)), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def serve_node(part: Part, identity: Identity, say: Callable[[str], None]) -> int:
    """Runs this machine's worker until the head says goodbye. Returns its exit code; raises ``StartError``."""
    host = LocalHost()
    folder = runtime_folder() / f"node-{os.getpid()}"
    mailbox, log = Mailbox(), Tail()
    name = f"node{part.node}"
    try:
        secret = f"{folder}/{name}.secret"
        host.put(secret, secret_file(identity, part.node))
        place = f"{part.addresses[part.node]}:{FIRST_PORT + part.node}"
        command = [f"{host.bin_dir}/lev-node", "serve", "--listen", place, "--secret-file", secret, "--name", name]
        process = host.spawn(
            command, stdout=json_events(mailbox, name, lambda line: log(line.encode() + b"\n")), stderr=log
        )
        watch_exit(process, name, mailbox)
        return _follow(mailbox, name, part, log, say)
    finally:
        host.close()


def _follow(mailbox: Mailbox, name: str, part: Part, log: Tail, say: Callable[[str], None]) -> int:
    while True:
        event = mailbox.take(time.monotonic() + 1)
        if event is None:
            continue
        if event.source == "exit":
            return _ended(event, name, log)
        if event.kind == "listening":
            say(
                f"node {part.node} ({part}) listens on {event.text('address')}; Ctrl-C takes it away and ends the guest"
            )
        elif event.kind == "error":
            raise LaunchError(f"{name}: {event.text('message')}", hint=event.text("hint") or None)
        else:
            say(f"{name}: {event.kind}")


def _ended(event: Event, name: str, log: Tail) -> int:
    code = event.data.get("code")
    if code == 0:
        return 0
    said = "".join(f"\n  | {line}" for line in log.lines())
    raise LaunchError(f"{name} ended with {code}{said}")
