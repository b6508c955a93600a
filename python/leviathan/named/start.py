"""Starting a named VM in the background, and seeing it come up."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from leviathan.errors import StartError
from leviathan.model.machine import Machine
from leviathan.named.client import Client
from leviathan.named.store import LEV_LOG, MACHINE, Store
from leviathan.named.wire import raise_error

__all__ = ["launch"]

POLL_SECONDS = 0.2


def launch(machine: Machine, name: str | None, *, progress: TextIO | None = None, store: Store | None = None) -> Client:
    """Starts a VM that outlives us and waits until its guest is up; its progress is copied to a stream.

    Without a name it is called as in its description, with a number if that one runs. Whoever interrupts the wait ends
    the VM, too. Raises a ``LeviathanError``: ``UsageError`` for a name in use, else what kept the VM from starting.
    """
    store = store or Store()
    entry, lock = store.reserve(
        name,
        machine.name,
        kind="plain" if machine.stock else "giant",
        cpus=machine.cpus,
        memory=machine.memory,
        nodes=0 if machine.stock else len(machine.shares()),
    )
    # Its lasting files go by the same name.
    machine = machine.model_copy(update={"name": entry.name})
    folder = store.folder(entry.name)
    (folder / MACHINE).write_text(machine.model_dump_json(by_alias=True), encoding="utf-8")
    ready, report = os.pipe()
    try:
        with (folder / LEV_LOG).open("ab") as log:
            command = [sys.executable, "-m", "leviathan.named.supervisor", str(folder), str(lock), str(report)]
            # Returns at once: what stays is its child.
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(lock, report), check=True
            )
    except (OSError, subprocess.CalledProcessError) as error:
        os.close(ready)
        raise StartError(f"cannot start the supervisor of {entry.name}: {error}") from error
    finally:
        os.close(lock)
        os.close(report)
    client = Client(entry.name, store)
    try:
        _await(ready, folder / LEV_LOG, progress)
    except KeyboardInterrupt:
        client.end()
        raise
    finally:
        os.close(ready)
    return client


def _await(ready: int, log: Path, progress: TextIO | None) -> None:
    """Copies the progress until the supervisor has reported."""
    answer = b""
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            readable, _, _ = select.select([ready], [], [], POLL_SECONDS)
            data = os.read(ready, 65536) if readable else None
            text = file.read()
            if progress is not None and text:
                progress.write(text)
                progress.flush()
            if data == b"":
                break
            answer += data or b""
    if not answer:
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
        raise StartError(f"the VM's supervisor ended without a word:\n{said}")
    raise_error(json.loads(answer))
