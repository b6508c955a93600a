"""``lev run``: boot the guest, run a command in it or give a console, and clean up."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from leviathan.launch.host import Sink
from leviathan.model import Machine
from leviathan.vm.console import LEAVE_HINT, attach, write_out
from leviathan.vm.life import Elsewhere, Life
from leviathan.vm.mailbox import Event
from leviathan.vm.prepare import Work
from leviathan.vm.progress import Progress
from leviathan.vm.signals import stop_signals

__all__ = ["run_command", "run_console"]


class _Output:
    """A sink into one of our own streams that notices when nobody reads it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._closed = threading.Event()
        self.life: Life | None = None

    def __call__(self, data: bytes) -> None:
        while data and not self._closed.is_set():
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError:
                self._closed.set()
                if self.life is not None:
                    self.life.mailbox.post(Event("output", "closed"))


def run_command(
    machine: Machine,
    command: str,
    *,
    timeout: float | None = None,
    json_file: Path | None = None,
    quiet: bool = False,
    restart_on_reboot: bool = False,
    stdout: Sink | None = None,
    trace: Path | None = None,
) -> tuple[int, Life]:
    """Runs a command in a new guest; its output is ours. Returns its exit code, and the life for its record."""
    out, err = _Output(sys.stdout.fileno()), _Output(sys.stderr.fileno())
    life = Life(
        machine,
        Work(command, restart_on_reboot),
        progress=Progress(None if quiet else sys.stderr),
        stdout=stdout or out,
        stderr=err,
        timeout=timeout,
        trace=trace,
    )
    out.life = err.life = life
    try:
        with stop_signals(), life:
            life.start()
            ending = life.wait_end()
            if ending.powered_off:
                life.progress.note("the command switched the guest off")
            life.stop()
            life.record.exit_code = ending.exit_code
    finally:
        if json_file is not None:
            life.record.write(json_file, life.progress.steps)
    return ending.exit_code, life


def run_console(
    machine: Machine,
    *,
    timeout: float | None = None,
    json_file: Path | None = None,
    quiet: bool = False,
    progress: Progress | None = None,
    begin: Callable[[Life], None] = lambda life: None,
    elsewhere: Elsewhere | None = None,
    trace: Path | None = None,
) -> int:
    """A guest with a shell on its console, in this terminal. Returns the exit code.

    ``begin`` is called with the life before it starts; ``elsewhere`` are workers that others started.
    """
    life = Life(
        machine,
        Work(None, restart_on_reboot=True),
        progress=progress or Progress(None if quiet else sys.stderr),
        console=write_out,
        timeout=timeout,
        elsewhere=elsewhere,
        trace=trace,
    )
    begin(life)

    def leave() -> None:
        life.mailbox.post(Event("user", "leave"))

    def ended(event: Event) -> bool | None:
        return True if event.source == "user" or (event.source, event.kind) == ("exit", "head") else None

    try:
        with stop_signals(), life:
            life.start()
            life.progress.note(f"the guest's console; {LEAVE_HINT}")
            with attach(life.type, leave):
                life.wait_event(ended, None, "the console's end")
            life.stop()
            life.record.exit_code = 0
    finally:
        if json_file is not None:
            life.record.write(json_file, life.progress.steps)
    return 0
