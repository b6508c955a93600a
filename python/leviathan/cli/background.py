"""``lev run -d`` and ``lev run --name``: a VM under a supervisor of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from leviathan.errors import UsageError
from leviathan.model.machine import Machine
from leviathan.named.client import Client
from leviathan.named.follow import attach_console, run_in
from leviathan.named.start import launch

__all__ = ["run_named"]


def run_named(
    machine: Machine,
    name: str | None,
    *,
    detach: bool,
    command: str | None = None,
    timeout: float | None = None,
    json_file: Path | None = None,
    quiet: bool = False,
) -> int:
    """Starts it; with ``detach`` prints its name and returns, else gives its console and ends it afterwards."""
    if detach and command is not None:
        raise UsageError("-d and --exec do not go together", hint="start it with -d, then: lev exec NAME -- CMD")
    if detach and (timeout is not None or json_file is not None):
        raise UsageError("-d goes without --timeout and --json", hint="`lev list --json` tells what became of it")
    client = launch(machine, name, progress=None if quiet else sys.stderr)
    if detach:
        print(client.name)
        return 0
    try:
        if command is not None:
            return run_in(client.name, [command], timeout=timeout, as_json=False)
        return attach_console(client.name)
    finally:
        _end(client)
        if json_file is not None and client.record.exists():
            json_file.write_bytes(client.record.read_bytes())


def _end(client: Client) -> None:
    if client.entry.alive:
        client.stop()
